//! The words of the commands on the store and the machine.

use clap::Args;

/// `kiln doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Check every digest, reference and layer of the store
    #[arg(long)]
    pub check: bool,
    /// Check the store and drop what is damaged
    #[arg(long)]
    pub repair: bool,
}

/// `kiln du`.
#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// Print all that is known of each
    #[arg(short, long)]
    pub verbose: bool,
    /// `json` or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only these (`until=24h`, `type=`, `id=`, `description~=`, `inuse`, `shared`, `private`, `mutable`, `immutable`)
    #[arg(long = "filter", value_name = "FILTER", allow_hyphen_values = true)]
    pub filters: Vec<String>,
}

/// `kiln prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Also steps' results that images hold (frees nothing until the images go)
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Only these (`until=24h`, `type=exec.cachemount`, `id=…`, as of `kiln du`)
    #[arg(long = "filter", value_name = "FILTER", allow_hyphen_values = true)]
    pub filters: Vec<String>,
    /// Only what was unused for longer (`until` as a flag)
    #[arg(long, value_name = "DURATION")]
    pub older_than: Option<String>,
    /// Cache that stays in any case
    #[arg(long, value_name = "SIZE", visible_alias = "keep-storage")]
    pub reserved_space: Option<kiln::storage::Size>,
    /// Cache that may stay
    #[arg(long, value_name = "SIZE")]
    pub max_used_space: Option<kiln::storage::Size>,
    /// Remove only until so much of the disk is free
    #[arg(long, value_name = "SIZE")]
    pub min_free_space: Option<kiln::storage::Size>,
    /// Print what would go and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print all that is known of each
    #[arg(long)]
    pub verbose: bool,
}

/// `kiln system df`.
#[derive(Debug, Args)]
pub(crate) struct SystemDfArgs {
    /// List everything
    #[arg(short, long)]
    pub verbose: bool,
    /// `json` or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `kiln system prune`.
#[derive(Debug, Args)]
pub(crate) struct SystemPruneArgs {
    /// Also images with names
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Volumes (kiln has none)
    #[arg(long)]
    pub volumes: bool,
    /// Only these (`until=24h`, `label=key[=value]`)
    #[arg(long = "filter", value_name = "FILTER", allow_hyphen_values = true)]
    pub filters: Vec<String>,
}
