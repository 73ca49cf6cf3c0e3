//! The words of commands that make images of files and files of images.

use std::path::PathBuf;

use clap::Args;

/// `kiln import`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct ImportArgs {
    /// An instruction of a Dockerfile on what the image says (CMD, ENV, …); may be repeated
    #[arg(short, long = "change", value_name = "INSTRUCTION", allow_hyphen_values = true)]
    pub changes: Vec<String>,
    /// What the image's history says
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub message: Option<String>,
    /// What the files run on
    #[arg(long, value_name = "OS/ARCH", allow_hyphen_values = true)]
    pub platform: Option<kiln::Platform>,
    /// A tar, compressed or not; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The image's name
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// `kiln export`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct ExportArgs {
    /// Write to a file and not to standard output
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    pub output: Option<PathBuf>,
    /// A name or id
    #[arg(value_name = "IMAGE")]
    pub name: String,
}

/// `kiln diff`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct DiffArgs {
    /// `table`, `json` or a Go template with the fields .Change, .Path, .OldSize, .NewSize and .Step
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "table",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub format: String,
    /// Show whole instructions
    #[arg(long)]
    pub no_trunc: bool,
    /// A name or id
    #[arg(value_name = "OLD")]
    pub old: String,
    /// Another one
    #[arg(value_name = "NEW")]
    pub new: String,
}
