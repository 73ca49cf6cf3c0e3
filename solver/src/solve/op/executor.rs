//! Who runs the processes of steps.

use std::sync::atomic::AtomicBool;

use kiln_sandbox::{Chroot, Exit, OciRuntime, SandboxError, Spec};

/// Runs a prepared process: the embedded sandbox, an OCI runtime, or what an embedder brings. No part of any key.
pub trait Executor: Send + Sync + std::fmt::Debug {
    /// Runs `spec` to its end; see [`kiln_sandbox::run`].
    ///
    /// # Errors
    /// See [`SandboxError`].
    fn run(
        &self,
        spec: &Spec,
        output: &mut dyn FnMut(kiln_sandbox::Output, &[u8]),
        cancel: &AtomicBool,
    ) -> Result<Exit, SandboxError>;

    /// What it keeps steps apart by.
    fn confinement(&self) -> Confinement {
        Confinement::Namespaces
    }
}

/// What keeps a step apart from all that is around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// Namespaces of its own: mounts and a network can be given to it.
    Namespaces,
    /// A root of its own and nothing else: it has the network that is there, trees are kept for it, and a cache mount is
    /// one step's at a time.
    Root,
}

/// The embedded sandbox.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sandbox;

impl Executor for Sandbox {
    fn run(
        &self,
        spec: &Spec,
        output: &mut dyn FnMut(kiln_sandbox::Output, &[u8]),
        cancel: &AtomicBool,
    ) -> Result<Exit, SandboxError> {
        kiln_sandbox::run(spec, output, cancel)
    }
}

impl Executor for Chroot {
    fn run(
        &self,
        spec: &Spec,
        output: &mut dyn FnMut(kiln_sandbox::Output, &[u8]),
        cancel: &AtomicBool,
    ) -> Result<Exit, SandboxError> {
        Chroot::run(self, spec, output, cancel)
    }

    fn confinement(&self) -> Confinement {
        Confinement::Root
    }
}

impl Executor for OciRuntime {
    fn run(
        &self,
        spec: &Spec,
        output: &mut dyn FnMut(kiln_sandbox::Output, &[u8]),
        cancel: &AtomicBool,
    ) -> Result<Exit, SandboxError> {
        OciRuntime::run(self, spec, output, cancel)
    }
}
