//! The flags of `kiln build`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::legacy::LegacyArgs;
use super::limits::LimitArgs;
use super::steps::StepArgs;
use super::{kaniko, parse_bool, registry};

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
    /// Make all layers of the image one, those of its base among them
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          value_parser = parse_bool, hide_default_value = true, hide_possible_values = true)]
    pub squash: bool,
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
    pub steps: StepArgs,
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
