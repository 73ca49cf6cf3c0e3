//! The words of the command line, as docker spells them.
//!
//! Values are checked for their shape here and nowhere else; what they mean is the commands' and the engine's business.
//! Docker's flag parser takes whatever word follows as a flag's value, so `allow_hyphen_values` stands on all of them.

pub(crate) mod attest;
mod builds;
pub(crate) mod cache;
pub(crate) mod call;
pub(crate) mod csv;
pub(crate) mod host;
mod images;
mod kaniko;
pub(crate) mod limits;
pub(crate) mod output;
pub(crate) mod pair;
pub(crate) mod registry;
pub(crate) mod resource;
pub(crate) mod secret;
pub(crate) mod ssh;
mod storage;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};

pub(crate) use builds::{BuildsArgs, BuildsCommand, ExplainArgs, LogsArgs};
pub(crate) use images::{
    DiffArgs, ExportArgs, HistoryArgs, ImagePruneArgs, ImagesArgs, ImportArgs, InspectArgs, LoadArgs,
    LoginArgs, LogoutArgs, RmiArgs, SaveArgs, TagArgs, TransferArgs,
};
use limits::LimitArgs;
pub(crate) use storage::{DoctorArgs, DuArgs, PruneArgs, SystemDfArgs, SystemPruneArgs};

/// Builds container images from Dockerfiles; no daemon, no root.
#[derive(Debug, Parser)]
#[command(name = "kiln", version, disable_help_subcommand = true, args_override_self = true)]
pub(crate) struct Cli {
    /// Print what kiln does, for its developers
    #[arg(short = 'D', long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub debug: bool,
    /// The store's directory
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

/// One variant a command; each has its file in `command/`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// List past builds, show one, or forget them
    Builds(BuildsArgs),
    /// Say which files of two images differ, and by which step
    Diff(DiffArgs),
    /// Say what this machine has of all that builds need, or whether the store is sound
    Doctor(DoctorArgs),
    /// Say what takes the store's space
    Du(DuArgs),
    /// Say why steps of a build ran and were not cached
    Explain(ExplainArgs),
    /// Write an image's files as a tar
    Export(ExportArgs),
    /// Show the history of an image
    History(HistoryArgs),
    /// List images
    Images(ImagesArgs),
    /// Make an image of the files in a tar
    Import(ImportArgs),
    /// Return low-level information on images, as JSON
    Inspect(InspectArgs),
    /// Load images from a tar archive or standard input
    Load(LoadArgs),
    /// Remove images that have no name (docker's `image prune`)
    #[command(name = "image-prune", hide = true)]
    ImagePrune(ImagePruneArgs),
    /// Log in to a registry
    Login(LoginArgs),
    /// Log out from a registry
    Logout(LogoutArgs),
    /// Show what steps of a build printed, cached ones too
    Logs(LogsArgs),
    /// Remove what builds keep for later builds
    Prune(PruneArgs),
    /// Download an image from a registry
    Pull(TransferArgs),
    /// Write down what the sources of a Dockerfile are, for `kiln build --locked`
    Lock(Box<LockArgs>),
    /// Upload an image to a registry
    Push(TransferArgs),
    /// Remove one or more images
    Rmi(RmiArgs),
    /// Run a command in a new container
    Run(Box<RunArgs>),
    /// Save one or more images to a tar archive
    Save(SaveArgs),
    /// Sum up what takes the store's space (docker's `system df`)
    #[command(name = "system-df", hide = true)]
    SystemDf(SystemDfArgs),
    /// Remove images without a name and the build cache (docker's `system prune`)
    #[command(name = "system-prune", hide = true)]
    SystemPrune(SystemPruneArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Print kiln's version
    Version,
}

/// `kiln build`.
#[derive(Debug, Args)]
#[command(args_override_self = true, override_usage = "kiln build [OPTIONS] PATH | URL | -")]
pub(crate) struct BuildArgs {
    /// A name for the image (`name[:tag]`); may be repeated
    #[arg(short, long = "tag", value_name = "NAME", allow_hyphen_values = true)]
    pub tags: Vec<String>,
    /// As --tag: what the name stands for on other platforms stays, so that builds one by one make an image for several
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub manifest: Vec<String>,
    /// The Dockerfile (default: `PATH/Dockerfile`; `-`: standard input)
    /// Several are read as one, in their order
    #[arg(short, long = "file", alias = "dockerfile", value_name = "FILE", allow_hyphen_values = true)]
    pub files: Vec<String>,
    /// An argument for `cpp`, which reads a Dockerfile with a name in `.in` first
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub cpp_flag: Vec<String>,
    /// The ignore file (default: `FILE.dockerignore`, `.dockerignore` or `.containerignore`)
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub ignorefile: Option<PathBuf>,
    /// Build this directory of the context in its place
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    pub context_sub_path: Option<PathBuf>,
    /// Set a build argument; `NAME` alone takes its value from the environment
    #[arg(long = "build-arg", value_name = "NAME=VALUE", allow_hyphen_values = true)]
    pub build_args: Vec<String>,
    /// Set build arguments from a file with lines of NAME=VALUE or NAME; `--build-arg` goes before
    #[arg(long = "build-arg-file", value_name = "FILE", allow_hyphen_values = true)]
    pub build_arg_files: Vec<PathBuf>,
    /// The stage to build
    #[arg(long, value_name = "STAGE", allow_hyphen_values = true)]
    pub target: Option<String>,
    /// Build on this image in place of what the first FROM names
    #[arg(long, value_name = "IMAGE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub from: Option<String>,
    /// Leave out stages that the target does not need; `=false` builds them too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub skip_unused_stages: bool,
    /// Do not use the cache
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub no_cache: bool,
    /// Do not use the cache for these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',', allow_hyphen_values = true)]
    pub no_cache_filter: Vec<String>,
    /// Run RUN instructions again whose results are older (`24h`, `7d`, `1h30m`)
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub cache_ttl: Option<String>,
    /// Say which steps would run or pull, and how long that took the last time; build nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub dry_run: bool,
    /// Say at the end why steps ran and were not cached
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub explain: bool,
    /// Ask the registry for every base image (or, with `=always|missing|never`, only for those that the store lacks,
    /// or for none)
    #[arg(long, value_name = "POLICY", num_args = 0..=1, require_equals = true, default_missing_value = "always",
          default_value = "missing", value_parser = PullPolicy::parse, hide_default_value = true)]
    pub pull: PullPolicy,
    /// Never ask a registry
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub offline: bool,
    /// Take every source as the lock beside the Dockerfile says it was (see `kiln lock`)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub locked: bool,
    /// A label for the image
    #[arg(long = "label", value_name = "KEY=VALUE", allow_hyphen_values = true)]
    pub labels: Vec<String>,
    /// Set a variable as if ENV stood behind every FROM; `NAME` alone takes its value from the environment
    #[arg(long, value_name = "NAME=VALUE", allow_hyphen_values = true)]
    pub env: Vec<String>,
    /// Leave a label out of the image, whoever set it
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub unsetlabel: Vec<String>,
    /// Leave a variable out of the image
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub unsetenv: Vec<String>,
    /// Whether a stage has the labels of its base (default: true)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub inherit_labels: bool,
    /// Leave out of the image how it was made
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub omit_history: bool,
    /// A further context (`name=path`, `name=docker-image://…`, …)
    #[arg(long = "build-context", value_name = "NAME=VALUE", allow_hyphen_values = true)]
    pub contexts: Vec<String>,
    /// A secret for the build (`id=mysecret[,src=/path][,env=NAME]`)
    #[arg(long = "secret", value_name = "SECRET", allow_hyphen_values = true)]
    pub secrets: Vec<String>,
    /// Keep a layer in which a step has left a secret; else the build fails and names the file
    #[arg(long)]
    pub allow_secret_in_layer: bool,
    /// An ssh agent or keys for the build (`default|id[=socket|key[,key]]`)
    #[arg(long, value_name = "SSH", allow_hyphen_values = true)]
    pub ssh: Vec<String>,
    /// Network of RUN instructions: default (their own where `pasta` is installed, else the host's), isolated (their own,
    /// or none at all; also `private`, `pasta`), none, host
    #[arg(long, value_name = "MODE", default_value = "default", allow_hyphen_values = true)]
    pub network: String,
    /// Allow what needs permission (`network.host`, `security.insecure`, `device`, `device=NAME[,alias=WORD]`)
    #[arg(long, value_name = "ENTITLEMENT", allow_hyphen_values = true)]
    pub allow: Vec<String>,
    /// A directory with CDI specifications of devices, in place of /etc/cdi and /var/run/cdi
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    pub cdi_spec_dir: Vec<PathBuf>,
    /// The platforms to build for
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',', allow_hyphen_values = true)]
    pub platform: Vec<String>,
    /// The machine to build for (`arm64`), with --os and --variant in place of --platform
    #[arg(long, value_name = "ARCH", conflicts_with = "platform")]
    pub arch: Option<String>,
    /// The system to build for (`linux`)
    #[arg(long, value_name = "OS", conflicts_with = "platform")]
    pub os: Option<String>,
    /// The variant of the machine to build for (`v7`)
    #[arg(long, value_name = "VARIANT", conflicts_with = "platform")]
    pub variant: Option<String>,
    /// Build for every platform that all base images are there for
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub all_platforms: bool,
    /// A line for /etc/hosts (`host:ip`; `host-gateway` is the address that reaches the host)
    #[arg(long, value_name = "HOST:IP", allow_hyphen_values = true)]
    pub add_host: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub shm_size: Option<String>,
    /// A limit (`nofile=1024:2048`)
    #[arg(long, value_name = "TYPE=SOFT[:HARD]", allow_hyphen_values = true)]
    pub ulimit: Vec<String>,
    /// Where the result goes (`type=local,dest=path`); may be repeated
    #[arg(short, long = "output", value_name = "OUTPUT", allow_hyphen_values = true)]
    pub outputs: Vec<String>,
    /// How images' layers are compressed: gzip, zstd, estargz, uncompressed (in all outputs)
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    pub compression_format: Option<String>,
    /// How much: gzip and estargz 0-9, zstd 0-22
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub compression_level: Option<String>,
    /// Compress layers of the base anew that are compressed in another way
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub force_compression: bool,
    /// Do not compress layers (as --compression-format uncompressed)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true, conflicts_with = "compression_format")]
    pub disable_compression: bool,
    /// A cache to look steps up in (`NAME`, or `type=` and `registry`, `local`, `dir`, `s3`, `gcs`, `azblob`, `webdav`, `http`, `gha`); may be repeated
    #[arg(long, value_name = "CACHE", allow_hyphen_values = true)]
    pub cache_from: Vec<String>,
    /// A cache to write the build's steps to (`NAME`, `type=s3,bucket=B,region=R,mode=max`, …, also `type=inline`); may be repeated
    #[arg(long, value_name = "CACHE", allow_hyphen_values = true)]
    pub cache_to: Vec<String>,
    /// Add an annotation (`[TYPE[,TYPE]:]KEY=VALUE`; types: manifest, index, manifest-descriptor, index-descriptor)
    #[arg(long = "annotation", value_name = "ANNOTATION", allow_hyphen_values = true)]
    pub annotations: Vec<String>,
    /// Leave an annotation out
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub unsetannotation: Vec<String>,
    /// Attach an attestation to the image (`type=provenance|sbom[,KEY=VALUE]`); may be repeated
    #[arg(long, value_name = "ATTESTATION", allow_hyphen_values = true)]
    pub attest: Vec<String>,
    /// Attach how the image was made: true, false or keys (`mode=min|max`, `version=v0.2|v1`, …)
    #[arg(long, value_name = "KEYS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub provenance: Option<String>,
    /// Attach a list of the packages in the image (SPDX): true or false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub sbom: Option<String>,
    /// Date the image and what is later in it (as the build argument SOURCE_DATE_EPOCH)
    #[arg(long, value_name = "SECONDS", conflicts_with = "timestamp")]
    pub source_date_epoch: Option<i64>,
    /// Write later times of files in new layers as SOURCE_DATE_EPOCH
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub rewrite_timestamp: bool,
    /// Both of these: --source-date-epoch and --rewrite-timestamp
    #[arg(long, value_name = "SECONDS")]
    pub timestamp: Option<i64>,
    /// Run all steps once more without the cache, and name the files that differ; exit status 1 if any do
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub verify_reproducible: bool,
    /// Put the image into a running docker or podman, and into the store
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub load: bool,
    /// Push the image to its registry (as --output type=registry)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub push: bool,
    /// Print nothing but the image's id
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = parse_bool, hide_default_value = true,
          hide_possible_values = true)]
    pub quiet: bool,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub iidfile: Option<PathBuf>,
    /// Write the image's id to a file, without `sha256:`
    #[arg(long, alias = "raw-iidfile", value_name = "FILE", allow_hyphen_values = true)]
    pub iidfile_raw: Option<PathBuf>,
    /// Write what was built to a file, as JSON
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub metadata_file: Option<PathBuf>,
    /// Write what is told of the build to a file and not to standard error
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub logfile: Option<PathBuf>,
    /// With --logfile: a file for each platform, with its name at the end (`FILE_linux_arm64`)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub logsplit: bool,
    /// How progress is shown: auto, plain, tty, rawjson, quiet, none
    #[arg(long, value_name = "MODE", default_value = "auto", allow_hyphen_values = true)]
    pub progress: String,
    /// Lint the Dockerfile without building (as --call=check)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub check: bool,
    /// What to do with the Dockerfile: build, check, outline, targets (`METHOD[,format=json][,ignorestatus=true]`)
    #[arg(long, alias = "print", value_name = "METHOD", default_value = "build", allow_hyphen_values = true)]
    pub call: String,
    /// Form of what --check, --call, --dry-run and --explain print: text, json; or of the image: oci, docker
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// How many steps run at once (default: as many as are ready)
    #[arg(long, value_name = "NUMBER", default_value_t, hide_default_value = true)]
    pub jobs: usize,
    /// Also look for what an experimental lint rule finds; `own` is all of kiln's own rules
    #[arg(long, value_name = "RULE", value_delimiter = ',', allow_hyphen_values = true)]
    pub lint: Vec<String>,
    /// What the whole store may take, images and all (`50GB`, `30%` of the disk)
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<kiln::storage::Size>,
    #[command(flatten)]
    pub registry: registry::RegistryArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub kaniko: kaniko::KanikoArgs,
    #[command(flatten)]
    pub legacy: LegacyArgs,
    /// PATH, URL or `-`
    #[arg(value_name = "PATH | URL | -", required = true)]
    pub context: OsString,
}

impl BuildArgs {
    /// `--format`, where it is about what is printed.
    pub(crate) fn report_format(&self) -> Option<&str> {
        self.format.as_deref().filter(|format| !matches!(*format, "oci" | "docker"))
    }
}

/// `--pull`: docker's boolean, or buildah's word (FEATURES CL30).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    /// Every base, be it in the store or not.
    Always,
    /// What the store lacks.
    Missing,
    /// Nothing.
    Never,
}

impl PullPolicy {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            // What is there is newer or the same.
            "always" | "newer" => Ok(Self::Always),
            "missing" | "ifmissing" => Ok(Self::Missing),
            "never" => Ok(Self::Never),
            _ => match kiln::boolean(text) {
                Some(true) => Ok(Self::Always),
                Some(false) => Ok(Self::Missing),
                None => Err("expected true, false, always, missing, newer or never".to_owned()),
            },
        }
    }
}

/// What docker's first builder knew and BuildKit ignores (FEATURES CL26, CL40), and what buildah can turn off that kiln
/// never does (CL51): taken, so that scripts go on working.
#[derive(Debug, Args)]
pub(crate) struct LegacyArgs {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = parse_bool)]
    pub compress: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = parse_bool)]
    pub rm: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = parse_bool)]
    pub force_rm: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = parse_bool)]
    pub squash: bool,
    /// Whether steps are cached; they are.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = parse_bool)]
    pub layers: bool,
    #[arg(long, hide = true)]
    pub isolation: Option<String>,
    #[arg(long, hide = true)]
    pub security_opt: Vec<String>,
    #[arg(long, hide = true)]
    pub builder: Option<String>,
    /// kiln looks at digests only, as every builder today.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = parse_bool)]
    pub disable_content_trust: bool,
    /// Whether stages that nothing needs are left out; they are.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = parse_bool)]
    pub skip_unused_stages: bool,
    /// buildx's policies on sources.
    #[arg(long, hide = true)]
    pub policy: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = parse_bool)]
    pub identity_label: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = parse_bool)]
    pub inherit_annotations: bool,
}

impl LegacyArgs {
    /// The policy that a build would have to heed: whoever ignores one takes what its author forbids.
    pub(crate) fn policy(&self) -> Option<&str> {
        let is_none = |text: &str| {
            text.split(',').all(|field| match field.split_once('=').unwrap_or((field, "true")) {
                ("disabled" | "reset", value) => parse_bool(value) == Ok(true),
                _ => false,
            })
        };
        self.policy.iter().map(String::as_str).find(|text| !is_none(text))
    }

    /// The flags that were given and change nothing although a user may think that they do.
    pub(crate) fn ignored(&self) -> Vec<&'static str> {
        [
            ("--squash", self.squash),
            ("--layers=false", !self.layers),
            ("--skip-unused-stages=false", !self.skip_unused_stages),
            ("--isolation", self.isolation.as_deref().is_some_and(|value| value != "default")),
            ("--security-opt", !self.security_opt.is_empty()),
            ("--identity-label", self.identity_label),
            ("--inherit-annotations", self.inherit_annotations),
        ]
        .into_iter()
        .filter_map(|(flag, given)| given.then_some(flag))
        .collect()
    }
}

/// `kiln lock`: of a build's arguments those that decide what the sources are.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct LockArgs {
    /// Write nothing; fail where a source is not what the lock says
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    pub build: BuildArgs,
}

/// `kiln run`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    disable_help_flag = true,
    override_usage = "kiln run [OPTIONS] IMAGE [COMMAND] [ARG...]"
)]
pub(crate) struct RunArgs {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
    /// Remove the container when it exits (it always is)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub rm: bool,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set a variable; `NAME` alone takes its value from the environment
    #[arg(short, long, value_name = "NAME=VALUE", allow_hyphen_values = true)]
    pub env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub env_file: Vec<PathBuf>,
    /// Mount a directory or file of the host
    #[arg(short, long = "volume", value_name = "HOST:PATH[:ro]", allow_hyphen_values = true)]
    pub volumes: Vec<String>,
    /// The working directory
    #[arg(short, long, value_name = "DIR", allow_hyphen_values = true)]
    pub workdir: Option<String>,
    /// The user
    #[arg(short, long, value_name = "USER[:GROUP]", allow_hyphen_values = true)]
    pub user: Option<String>,
    /// The host name
    #[arg(short = 'h', long, value_name = "NAME", allow_hyphen_values = true)]
    pub hostname: Option<String>,
    /// In place of the image's ENTRYPOINT
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub entrypoint: Option<String>,
    /// `host`, `isolated` (one of its own, by pasta) or `none`
    #[arg(
        long,
        visible_alias = "net",
        value_name = "MODE",
        default_value = "host",
        allow_hyphen_values = true
    )]
    pub network: String,
    /// Name or id, and the command in place of CMD; whatever follows the image is the command's
    #[arg(value_name = "IMAGE", required = true, num_args = 1.., trailing_var_arg = true)]
    pub image_and_command: Vec<String>,
}

/// A command line that cannot be understood, and how to say so.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UsageError {
    /// What is wrong with it.
    pub message: String,
    /// What can be done.
    pub hint: String,
    /// Docker's: 125 for `run`, whose own statuses are the process's, else 1.
    pub status: u8,
}

/// What the words ask for.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// A command.
    Run(Box<Cli>),
    /// To be printed on standard output: help or version.
    Print(String),
}

/// Understands a whole command line, the program's own name first.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Parsed, UsageError> {
    let words = normalise(words.into_iter().collect());
    let command = command_among(&words);
    match Cli::try_parse_from(words) {
        Ok(cli) => Ok(Parsed::Run(Box::new(cli))),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Print(error.render().to_string()))
        }
        Err(error) => Err(usage_error(&error, &command)),
    }
}

/// The command of a line that may begin with flags that are for all of them.
fn command_among(words: &[OsString]) -> String {
    let mut words = words.iter().skip(1).filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        match word {
            "--root" => _ = words.next(),
            word if word.starts_with('-') => {}
            word => return word.to_owned(),
        }
    }
    String::new()
}

/// Called as `build`, the command is `build`; docker's longer spellings (`image ls`, `buildx build`) become the short.
fn normalise(mut words: Vec<OsString>) -> Vec<OsString> {
    let program = words.first().map(PathBuf::from).unwrap_or_default();
    if program.file_name() == Some(OsStr::new("build")) && words.get(1).is_none_or(|word| word != "--version")
    {
        words.insert(1, "build".into());
        return words;
    }
    let group = words.get(1).and_then(|word| word.to_str());
    let action = words.get(2).and_then(|word| word.to_str());
    let short = match (group, action) {
        (Some("builder" | "buildx" | "image"), Some("build")) | (Some("buildx"), Some("b")) => "build",
        (Some("builder" | "buildx"), Some("prune")) => "prune",
        (Some("buildx"), Some("du")) => "du",
        (Some("image"), Some("prune")) => "image-prune",
        (Some("system"), Some("df")) => "system-df",
        (Some("system"), Some("prune")) => "system-prune",
        (Some("image"), Some("ls" | "list")) => "images",
        (Some("image"), Some("rm" | "remove")) => "rmi",
        (Some("image"), Some("history")) => "history",
        (Some("image"), Some("inspect")) => "inspect",
        (Some("image"), Some("import")) => "import",
        (Some("image"), Some("load")) => "load",
        (Some("image"), Some("pull")) => "pull",
        (Some("image"), Some("save")) => "save",
        (Some("image"), Some("tag")) => "tag",
        (Some("container"), Some("run")) => "run",
        _ => return words,
    };
    words.splice(1..3, [OsString::from(short)]);
    words
}

/// Words clap's finding as docker does.
fn usage_error(error: &clap::Error, command: &str) -> UsageError {
    let known = Cli::known_command(command);
    let place = if known { format!("kiln {command}") } else { "kiln".to_owned() };
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        // Of suggestions the nearest comes last.
        Some(ContextValue::Strings(texts)) => texts.last().cloned(),
        _ => None,
    };
    let given = text(ContextKind::InvalidArg).unwrap_or_default();
    let message = match error.kind() {
        ErrorKind::MissingRequiredArgument | ErrorKind::UnknownArgument
            if command == "build" && !given.starts_with('-') =>
        {
            "`kiln build` requires exactly 1 argument: PATH, URL or `-`".to_owned()
        }
        ErrorKind::UnknownArgument if given.starts_with('-') => format!("unknown flag: {given}"),
        ErrorKind::UnknownArgument => format!("`{place}` takes no further argument `{given}`"),
        ErrorKind::MissingRequiredArgument => format!("`{place}` requires {given}"),
        ErrorKind::InvalidSubcommand => {
            format!("unknown command: {}", text(ContextKind::InvalidSubcommand).unwrap_or_default())
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "which command?".to_owned()
        }
        _ => {
            let rendered = error.render().to_string();
            let first = rendered.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    };
    // To clap a flag of two letters is near to many words.
    let is_near = |flag: &String| 2 * flag.len() > given.len();
    let nearest =
        text(ContextKind::SuggestedArg).filter(is_near).or_else(|| text(ContextKind::SuggestedSubcommand));
    let hint = match nearest {
        Some(nearest) => format!("did you mean `{nearest}`? See '{place} --help'"),
        None => format!("See '{place} --help'"),
    };
    UsageError { message, hint, status: if command == "run" { 125 } else { 1 } }
}

impl Cli {
    fn known_command(name: &str) -> bool {
        use clap::CommandFactory as _;
        Self::command().find_subcommand(name).is_some()
    }
}

/// The value of a flag that is true or false.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    kiln::boolean(text).ok_or_else(|| "expected true or false".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(line: &[&str]) -> Cli {
        match parse(line.iter().map(OsString::from)) {
            Ok(Parsed::Run(cli)) => *cli,
            other => panic!("{other:?}"),
        }
    }

    fn build(line: &[&str]) -> BuildArgs {
        match cli(line).command {
            Command::Build(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn run(line: &[&str]) -> RunArgs {
        match cli(line).command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn refused(line: &[&str]) -> UsageError {
        parse(line.iter().map(OsString::from)).unwrap_err()
    }

    #[test]
    fn the_definition_holds_together() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn called_as_build_the_program_is_kiln_build() {
        let args =
            build(&["/usr/bin/build", "-t", "name", "-f", "Dockerfile.dev", "--build-arg", "UID=1000", "."]);
        assert_eq!(args.tags, ["name"]);
        assert_eq!(args.files, ["Dockerfile.dev"]);
        assert_eq!(args.build_args, ["UID=1000"]);
        assert_eq!(args.context, ".");
    }

    #[test]
    fn short_flags_take_their_value_in_all_of_dockers_ways() {
        for line in [
            &["kiln", "build", "-t=x", "."][..],
            &["kiln", "build", "-tx", "."],
            &["kiln", "build", "-qtx", "."],
        ] {
            assert_eq!(build(line).tags, ["x"], "{line:?}");
        }
    }

    #[test]
    fn a_boolean_is_on_alone_and_off_when_told_so() {
        assert!(build(&["kiln", "build", "-q", "."]).quiet);
        assert!(!build(&["kiln", "build", "-q=false", "."]).quiet);
        assert!(build(&["kiln", "build", "--no-cache=1", "."]).no_cache);
    }

    #[test]
    fn what_is_pulled_is_a_boolean_or_a_word() {
        let pull = |flags: &[&str]| build(&[&["kiln", "build"], flags, &["."]].concat()).pull;
        for always in ["--pull", "--pull=true", "--pull=1", "--pull=always", "--pull=newer"] {
            assert_eq!(pull(&[always]), PullPolicy::Always, "{always}");
        }
        assert_eq!([pull(&[]), pull(&["--pull=false"]), pull(&["--pull=missing"])], [PullPolicy::Missing; 3]);
        assert_eq!(pull(&["--pull=never"]), PullPolicy::Never);
        assert!(
            refused(&["kiln", "build", "--pull=often", "."]).message.contains("expected true, false, always")
        );
    }

    #[test]
    fn flags_may_follow_the_context() {
        let args = build(&["kiln", "build", ".", "-t", "x", "--no-cache"]);
        assert_eq!((args.context.as_os_str(), args.no_cache), (OsStr::new("."), true));
    }

    #[test]
    fn a_dash_is_a_context_and_a_dockerfile() {
        assert_eq!(build(&["kiln", "build", "-"]).context, "-");
        assert_eq!(build(&["kiln", "build", "-f-", "."]).files, ["-"]);
        assert_eq!(build(&["kiln", "build", "-f", "-", "."]).files, ["-"]);
        assert_eq!(build(&["kiln", "build", "-o", "-", "."]).outputs, ["-"]);
    }

    #[test]
    fn a_value_may_start_with_a_dash() {
        assert_eq!(build(&["kiln", "build", "--build-arg", "-O=2", "."]).build_args, ["-O=2"]);
    }

    #[test]
    fn the_first_builders_flags_are_taken_and_ignored() {
        let args =
            build(&["kiln", "build", "--compress", "--rm", "--force-rm", "--squash", "--rm=false", "."]);
        assert_eq!(args.legacy.ignored(), ["--squash"]);
    }

    #[test]
    fn a_policy_is_refused_unless_it_is_switched_off() {
        let policy =
            |text: &str| build(&["kiln", "build", "--policy", text, "."]).legacy.policy().map(str::to_owned);
        assert_eq!(policy("disabled=true"), None);
        assert_eq!(policy("reset=true,disabled"), None);
        assert_eq!(policy("disabled=false"), Some("disabled=false".into()));
        assert_eq!(policy("filename=a.rego,strict=true"), Some("filename=a.rego,strict=true".into()));
    }

    #[test]
    fn other_builders_words_for_a_flag_are_that_flag() {
        let args = build(&["kiln", "build", "--dockerfile", "D", "--print=outline", "-d", "r/a", "."]);
        assert_eq!((args.files, args.call.as_str()), (vec!["D".to_owned()], "outline"));
        assert!(args.kaniko.pushes());
        assert!(!build(&["kiln", "build", "-d", "r/a", "--no-push", "."]).kaniko.pushes());
    }

    #[test]
    fn flags_before_the_command_do_not_hide_it() {
        let error = refused(&["kiln", "--root", "/s", "-D", "build"]);
        assert_eq!(error.message, "`kiln build` requires exactly 1 argument: PATH, URL or `-`");
        assert_eq!(refused(&["kiln", "--root", "/s", "run", "--nope"]).status, 125);
    }

    #[test]
    fn dockers_longer_spellings_are_the_same_commands() {
        assert_eq!(build(&["kiln", "buildx", "build", "-t", "x", "."]).tags, ["x"]);
        assert!(matches!(cli(&["kiln", "image", "ls"]).command, Command::Images(_)));
    }

    #[test]
    fn build_takes_exactly_one_context() {
        for line in [&["kiln", "build"][..], &["kiln", "build", "a", "b"], &["build", "-t", "x"]] {
            let error = refused(line);
            assert_eq!(
                error.message, "`kiln build` requires exactly 1 argument: PATH, URL or `-`",
                "{line:?}"
            );
            assert_eq!((error.hint.as_str(), error.status), ("See 'kiln build --help'", 1));
        }
    }

    #[test]
    fn an_unknown_flag_names_the_closest_one() {
        let error = refused(&["kiln", "build", "--tagg", "x", "."]);
        assert_eq!(error.message, "unknown flag: --tagg");
        assert_eq!(error.hint, "did you mean `--tag`? See 'kiln build --help'");
        assert_eq!(refused(&["kiln", "run", "--nope", "x"]).status, 125);
    }

    #[test]
    fn runs_flags_stop_at_the_image() {
        let args = run(&["kiln", "run", "--rm", "-it", "-e", "A=1", "busybox", "ls", "-l", "--rm=x", "-e"]);
        assert_eq!((args.rm, args.interactive, args.tty, args.env.len()), (true, true, true, 1));
        assert_eq!(args.image_and_command, ["busybox", "ls", "-l", "--rm=x", "-e"]);
    }

    #[test]
    fn help_and_version_are_for_standard_output() {
        assert!(matches!(parse(["kiln", "build", "--help"].map(OsString::from)), Ok(Parsed::Print(_))));
        assert!(matches!(parse(["kiln", "--version"].map(OsString::from)), Ok(Parsed::Print(_))));
        assert!(matches!(parse(["build", "--version"].map(OsString::from)), Ok(Parsed::Print(_))));
    }
}
