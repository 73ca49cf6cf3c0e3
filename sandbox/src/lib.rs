//! The embedded runtime: one process tree in namespaces of its own on a root file system made of layers.
//!
//! Here: overlayfs, namespaces, mounts, capabilities, seccomp, limits, network, signals, terminals; users of an image.
//! Not here: what to run and why (`kiln-solver`), where layers are kept (`kiln-cache`).
//!
//! Everything that allocates is prepared before the fork ([`Spec`]); the child makes raw system calls only.
//! Start at [`run`].

mod identity;
mod spec;

pub use identity::{Identity, IdentityError, resolve_user};
pub use spec::{
    Exit, ExitStatus, HostEntry, Io, Limits, Mount, MountKind, Network, Output, Rootfs, SandboxError,
    Security, Spec, Terminal, Usage,
};

use std::sync::atomic::AtomicBool;

/// Runs `spec` to its end. Output is given to `output` as it comes; when `cancel` goes up everything in the sandbox is
/// killed and [`SandboxError::Canceled`] returned.
///
/// # Errors
/// See [`SandboxError`]; a command that ran and failed is no error but an [`Exit`].
pub fn run(
    spec: &Spec,
    output: &mut dyn FnMut(Output, &[u8]),
    cancel: &AtomicBool,
) -> Result<Exit, SandboxError> {
    let _ = (spec, output, cancel);
    todo!()
}
