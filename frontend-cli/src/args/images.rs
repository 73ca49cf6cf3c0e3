//! The words of the commands on images and registries.

use std::path::PathBuf;

use clap::Args;

use super::parse_bool;
use super::registry::RegistryArgs;

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
    /// A tar, compressed or not: a file, an `http://` or `https://` address, or `-` for standard input
    #[arg(value_name = "FILE|URL|-")]
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

/// `kiln login`.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// User name
    #[arg(short, long, value_name = "NAME", allow_hyphen_values = true)]
    pub username: Option<String>,
    /// Password or access token; others on this machine can read it here
    #[arg(short, long, value_name = "PASSWORD", allow_hyphen_values = true)]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Print the user name that is logged in
    #[arg(long)]
    pub get_login: bool,
    /// The same as --authfile, for docker's programs to read: the file is in docker's form in any case
    #[arg(long, value_name = "FILE", conflicts_with = "authfile")]
    pub compat_auth_file: Option<PathBuf>,
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// The registry (default: Docker Hub)
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}

/// `kiln logout`.
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// The file that logins are kept in (in place of docker's config.json)
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// The same as --authfile
    #[arg(long, value_name = "FILE", conflicts_with = "authfile")]
    pub compat_auth_file: Option<PathBuf>,
    /// The registry (default: Docker Hub)
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}

/// `kiln push` and `kiln pull`.
#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    /// All tags of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Print only the name
    #[arg(short, long)]
    pub quiet: bool,
    /// Of an image for several platforms, only this one's
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// How progress is shown: auto, plain, tty, rawjson, quiet, none
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub progress: String,
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Name, with a tag; a digest to pull by
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub name: String,
}

/// `kiln images`.
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Show all images (kiln keeps no intermediate ones)
    #[arg(short, long)]
    pub all: bool,
    /// Only print ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Print whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Print digests
    #[arg(long)]
    pub digests: bool,
    /// `table`, `json` or a template (`{{.Repository}}`, `table {{.ID}}\t{{.Size}}`)
    #[arg(long, value_name = "FORMAT", default_value = "table", allow_hyphen_values = true)]
    pub format: String,
    /// Only images that are so: dangling=, label=, before=, since=, reference=, until=
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// Only this repository
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub name: Option<String>,
}

/// `kiln image prune`.
#[derive(Debug, Args)]
pub(crate) struct ImagePruneArgs {
    /// Also images with names
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Only these (`until=24h`, `label=key[=value]`, `label!=…`)
    #[arg(long = "filter", value_name = "FILTER", allow_hyphen_values = true)]
    pub filters: Vec<String>,
}

/// `kiln inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Show this of each, a template (`{{.Config.Env}}`) or `json`
    #[arg(short, long, value_name = "FORMAT", allow_hyphen_values = true)]
    pub format: Option<String>,
    /// What is meant: kiln has images only
    #[arg(long = "type", value_name = "image", value_parser = ["image"])]
    pub kind: Option<String>,
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub names: Vec<String>,
}

/// `kiln history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Print whole instructions and ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Only print ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Sizes and dates for people
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = parse_bool, hide_possible_values = true)]
    pub human: bool,
    /// `table`, `json` or a template
    #[arg(long, value_name = "FORMAT", default_value = "table", allow_hyphen_values = true)]
    pub format: String,
    /// Name or id
    #[arg(value_name = "IMAGE")]
    pub name: String,
}

/// `kiln tag`.
#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Name or id
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The new name
    #[arg(value_name = "TARGET")]
    pub target: String,
}

/// `kiln rmi`.
#[derive(Debug, Args)]
pub(crate) struct RmiArgs {
    /// Remove an id with all its names
    #[arg(short, long)]
    pub force: bool,
    /// Of no effect: layers stay until `kiln prune` removes what nothing needs
    #[arg(long)]
    pub no_prune: bool,
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub names: Vec<String>,
}

/// `kiln save`.
#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// Write to a file and not to standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub names: Vec<String>,
}

/// `kiln load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Read a file and not standard input
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Print nothing but what was loaded
    #[arg(short, long)]
    pub quiet: bool,
}
