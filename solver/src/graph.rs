//! The graph of operations. They mirror BuildKit's LLB: source, exec, file, merge, diff.
//!
//! An edge runs from a vertex to each input it needs; inputs are numbered by the edge's weight ([`InputIndex`]), so that
//! operations name them as they were written. Equal vertices (same operation, same inputs) are one vertex.

use std::path::PathBuf;
use std::time::Duration;

use kiln_image::{Digest, ImageRef, Platform};
use kiln_parser::Span;
use kiln_sandbox::{Capabilities, HostAddress, HostDevice, SecurityOptions};
use petgraph::graph::{DiGraph, NodeIndex};

use crate::explain::NoCacheBy;

/// A vertex's place in the graph.
pub type VertexId = NodeIndex;

/// The graph.
pub type Graph = DiGraph<Vertex, InputIndex>;

/// Which input of an operation an edge is, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InputIndex(pub usize);

/// One step.
#[derive(Clone, Debug)]
pub struct Vertex {
    /// What it does.
    pub op: Op,
    /// What people see: `[stage 2/5] RUN make`, `[internal] load build context`.
    pub name: String,
    /// The instruction in the Dockerfile.
    pub span: Option<Span>,
    /// The instruction's text as a history entry has it, for records and explanations.
    pub created_by: String,
    /// Whether a record may be its result.
    pub cache: CacheUse,
    /// What it runs on.
    pub platform: Platform,
}

/// Whether a record may be taken as a step's result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheUse {
    /// Any.
    #[default]
    Any,
    /// One that is not older than this.
    NewerThan(Duration),
    /// None: the step runs anew.
    Never(NoCacheBy),
}

/// What a vertex does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Brings something in. No inputs.
    Source(Source),
    /// Runs a process. Input 0 is the root file system.
    Exec(Box<Exec>),
    /// Changes files without running anything. Input 0 is the tree that is changed.
    File(File),
    /// Stacks the inputs' layers, first input lowest (COPY --link).
    Merge,
    /// What input 1 adds to input 0.
    Diff,
    /// Input 0 as it is, once the other inputs are there (`FROM --after`).
    After,
}

/// Where things come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Nothing: `FROM scratch`.
    Scratch,
    /// An image whose manifest was resolved before planning; `manifest` finds it in [`crate::solve::Inputs::images`].
    Image {
        /// Its name, for people.
        reference: ImageRef,
        /// Digest of the platform's manifest.
        manifest: Digest,
    },
    /// A local tree given by the engine: the build context (`context`) or a named one. Filtered already.
    Context {
        /// `context` or the name.
        name: String,
    },
    /// A file by HTTP(S).
    Http {
        /// Absolute URL.
        url: String,
        /// What its bytes must hash to.
        checksum: Option<Digest>,
    },
    /// A git tree.
    Git(GitSource),
}

/// A git tree; [`crate::git_url`] makes one of an address and checks it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GitSource {
    /// Remote. May hold a password.
    pub remote: String,
    /// Branch, tag or commit; empty is the default branch.
    pub reference: String,
    /// Directory in it; empty is the root.
    pub subdir: String,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// Commit, or a prefix of it, that must be found.
    pub checksum: Option<String>,
    /// Check submodules out as well.
    pub submodules: bool,
    /// Modification times.
    pub times: GitTimes,
    /// Fetch the commit of `checksum` without a look at what `reference` is now.
    pub fetch_by_commit: bool,
}

impl Default for GitSource {
    fn default() -> Self {
        Self {
            remote: String::new(),
            reference: String::new(),
            subdir: String::new(),
            keep_git_dir: false,
            checksum: None,
            submodules: true,
            times: GitTimes::Checkout,
            fetch_by_commit: false,
        }
    }
}

/// Modification times of a git tree's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GitTimes {
    /// When they were written.
    #[default]
    Checkout,
    /// When the commit was made.
    Commit,
}

/// A process. All words are final: variables are expanded, the shell is in `argv`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Exec {
    /// The command.
    pub argv: Vec<String>,
    /// `NAME=value` in effect, sorted as written; part of the key.
    pub env: Vec<String>,
    /// Names of the variables that are build arguments; for explanations.
    pub build_args: Vec<String>,
    /// Proxies and the like: in the environment, not in the key.
    pub unkeyed_env: Vec<String>,
    /// Absolute.
    pub cwd: String,
    /// `user[:group]` as USER has it; resolved in the root file system.
    pub user: String,
    /// Mounts in order.
    pub mounts: Vec<ExecMount>,
    /// Network.
    pub network: NetworkMode,
    /// `--security=insecure`.
    pub insecure: bool,
    /// `--cap-add` and `--cap-drop`.
    pub capabilities: Capabilities,
    /// `--security-opt`.
    pub security_options: SecurityOptions,
    /// Host name.
    pub hostname: String,
    /// `--device`: those that specifications describe.
    pub devices: Vec<ExecDevice>,
    /// `--device` by path, of the user of kiln.
    pub host_devices: Vec<HostDevice>,
    /// `--group-add`.
    pub groups: ExtraGroups,
    /// `--volume`, mounted before `mounts`.
    pub volumes: Vec<Volume>,
    /// `--add-host`: names are part of the key.
    pub extra_hosts: Vec<(String, HostAddress)>,
    /// `--shm-size`.
    pub shm_bytes: Option<u64>,
    /// `--ulimit`.
    pub ulimits: Vec<(String, u64, u64)>,
    /// A RUN heredoc with `#!`: stored at `/dev/pipes/<name>` (0755, read-only) and executed (FEATURES LX31).
    pub scripts: Vec<(String, String)>,
}

/// A directory or file of the host's that the user of kiln shows to every RUN; never a Dockerfile's word. Its path is part
/// of the steps' keys, what is in it is not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Volume {
    /// On the host, absolute.
    pub source: PathBuf,
    /// In the step, absolute.
    pub target: String,
    /// What the step may do with it.
    pub access: VolumeAccess,
    /// No program in it can be started.
    pub no_exec: bool,
    /// All of it is given to the step's user, on the host, before the step runs.
    pub of_user: bool,
}

/// Groups that steps are in besides their own; never a Dockerfile's word.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ExtraGroups {
    /// Names in the image's group file, or numbers.
    Named(Vec<String>),
    /// In place of the step's own those that kiln has itself (`keep-groups`).
    Kept,
}

impl Default for ExtraGroups {
    fn default() -> Self {
        Self::Named(Vec::new())
    }
}

/// What a step may do with a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VolumeAccess {
    /// Read.
    ReadOnly,
    /// Change what the host has.
    Writable,
    /// Write, and it is lost; for directories.
    Overlay,
}

/// A device of the host's that a step wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExecDevice {
    /// As the Dockerfile has it.
    pub wanted: kiln_parser::Device,
    /// The whole names of what that is on this machine; part of the key. The engine looks it up.
    pub found: Vec<String>,
}

/// Network of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NetworkMode {
    /// The build's default.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// A mount of a step; targets are absolute and expanded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExecMount {
    /// Where.
    pub target: String,
    /// What.
    pub kind: ExecMountKind,
    /// No program in it can be started.
    pub no_exec: bool,
    /// A new cache or tmpfs, and all that a bind mount shows, belongs to the step's user, whatever `kind` says of its owner.
    pub of_user: bool,
}

/// What a step mounts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ExecMountKind {
    /// An input.
    Bind {
        /// Which.
        input: InputIndex,
        /// Path in it.
        source: String,
        /// Writes are allowed and lost.
        writable: bool,
    },
    /// A cache directory.
    Cache {
        /// `<namespace>/<id>`; not in the key.
        id: String,
        /// What it begins with.
        seed: Option<InputIndex>,
        /// Path in the seed of what it begins with, a directory or a file; without a seed, path in the cache of what is
        /// mounted.
        source: String,
        /// Sharing; not in the key.
        sharing: kiln_parser::CacheSharing,
        /// Read-only.
        read_only: bool,
        /// Mode of a new one.
        mode: u32,
        /// Owner of a new one.
        uid: u32,
        /// Group of a new one.
        gid: u32,
    },
    /// Empty memory.
    Tmpfs {
        /// Bytes.
        size: Option<u64>,
        /// Nothing can be written.
        read_only: bool,
    },
    /// A secret; its value is not in the key. `target` is empty when it is given by variable only.
    Secret {
        /// Its id.
        id: String,
        /// The variable.
        env: Option<String>,
        /// The step fails without it.
        required: bool,
        /// Mode.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// An ssh agent's socket.
    Ssh {
        /// Its id.
        id: String,
        /// The step fails without it.
        required: bool,
        /// Mode.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// Changes of files, in order, all in one layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct File {
    /// What to do.
    pub actions: Vec<FileAction>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FileAction {
    /// Makes a directory and its parents where absent (WORKDIR).
    MakeDir {
        /// Absolute.
        path: String,
        /// Of what is made.
        mode: u32,
        /// Owner of what is made.
        owner: Option<Owner>,
    },
    /// Writes a file (heredoc of COPY/ADD). `dest` as in `Copy`, the name is `name`.
    MakeFile {
        /// File name where `dest` is a directory.
        name: String,
        /// Absolute; a trailing slash says directory.
        dest: String,
        /// Bytes.
        contents: String,
        /// As in `Copy`.
        options: CopyOptions,
    },
    /// Copies from an input.
    Copy {
        /// From which.
        input: InputIndex,
        /// Path or pattern in it.
        source: String,
        /// Absolute; a trailing slash says directory.
        dest: String,
        /// Whether a pattern may match (`*`, `?`, `[`): false for what must be taken literally.
        wildcard: bool,
        /// The rest.
        options: CopyOptions,
    },
}

/// Options of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CopyOptions {
    /// `--chown`; without it ids are kept as the source tree has them.
    pub owner: Option<Owner>,
    /// `--chmod`.
    pub mode: Option<ModeChange>,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// ADD of local archives: files that are archives are extracted.
    pub unpack: bool,
    /// ADD of a URL into a directory: use this as the file's name.
    pub rename: Option<PathBuf>,
    /// The root that is copied to is as the directory that is copied: its mode and owner too (`--squash`).
    pub as_root: bool,
}

/// `--chmod`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModeChange {
    /// Octal bits.
    Octal(u32),
    /// `u=rwX,go=rX`, checked.
    Symbolic(String),
}

/// `user[:group]`, names resolved in input 0's passwd and group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub String);
