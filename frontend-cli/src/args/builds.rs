//! `kiln builds`, `kiln explain` and `kiln logs`.

use clap::{Args, Subcommand};

/// `kiln builds`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BuildsArgs {
    #[command(subcommand)]
    pub command: Option<BuildsCommand>,
    /// Only print ids
    #[arg(short, long)]
    pub quiet: bool,
    /// `table` or `json`
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    pub format: String,
}

/// What can be done with past builds.
#[derive(Debug, Subcommand)]
pub(crate) enum BuildsCommand {
    /// Show a build: its steps, and what each took
    Inspect {
        /// An id or its beginning; `^0` is the last build, `^1` the one before (default: the last of this directory)
        #[arg(value_name = "BUILD")]
        build: Option<String>,
        /// `text` or `json`
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        format: String,
    },
    /// Forget builds; images and cache stay
    Rm {
        /// All of them
        #[arg(long)]
        all: bool,
        /// Ids or their beginnings
        #[arg(value_name = "BUILD")]
        builds: Vec<String>,
    },
}

/// `kiln explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The build: an id or its beginning; `^1` is the one before the last (default: the last of this directory)
    #[arg(long, value_name = "BUILD")]
    pub build: Option<String>,
    /// `text` or `json`
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub format: String,
    /// A step as progress names it: `#7`, `2/5`, or words of its instruction; or a build
    #[arg(value_name = "STEP|BUILD")]
    pub step: Option<String>,
}

/// `kiln logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The build: an id or its beginning; `^1` is the one before the last (default: the last of this directory)
    #[arg(long, value_name = "BUILD")]
    pub build: Option<String>,
    /// A step as progress names it: `#7`, `2/5`, or words of its instruction; or a build
    #[arg(value_name = "STEP|BUILD")]
    pub what: Option<String>,
}
