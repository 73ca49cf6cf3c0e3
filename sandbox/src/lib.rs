//! The embedded runtime: one process tree in namespaces of its own on a root file system made of layers.
//!
//! Here: overlayfs, namespaces, mounts, capabilities, seccomp, limits, network, signals, terminals; users of an image.
//! Not here: what to run and why (`kiln-solver`), where layers are kept (`kiln-cache`).
//!
//! Everything that allocates is prepared before the fork ([`Spec`]); the child makes raw system calls only.
//! Start at [`run`].

mod capabilities;
mod enter;
mod etc_files;
mod identity;
mod limits;
mod plan;
mod report;
mod rootfs;
mod run;
mod seccomp;
mod seccomp_table;
mod socket;
mod spec;
mod stubs;
mod sys;
mod terminal;

pub use identity::{Identity, IdentityError, resolve_user};
pub use run::run;
pub use spec::{
    Exit, ExitStatus, HostEntry, Io, Limits, Mount, MountKind, Network, Output, Rootfs, SandboxError,
    Security, Spec, Terminal, Usage,
};
