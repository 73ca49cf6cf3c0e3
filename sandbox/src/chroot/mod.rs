//! A step without namespaces, for the inside of a container in which none can be made (Kubernetes, GitLab CI).
//!
//! The root is one directory tree with copies of the layers' files ([`Trees`]). Before the command it is listed; the
//! command runs in it by chroot(2), without the capability to leave it; afterwards it is listed again, and what differs
//! is copied to the upper directory in overlayfs' own form. Nothing is read to find differences: no process can set a
//! file's time of change. What is a mount elsewhere is put into the tree for the time of the command (`stage`).
//!
//! This isolates less: the command shares processes, network, host name and devices with the container.

mod change;
mod copy;
mod inside;
mod listing;
mod stage;
mod tree;
mod watch;

use std::collections::HashSet;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::thread::CapabilitySet;

pub(crate) use inside::{enter, outlive};
pub use tree::Trees;

use crate::control_group::{ControlGroup, Holder};
use crate::plan::{Plan, c_string, setup};
use crate::{Exit, ExitStatus, Io, Network, Output, SandboxError, Security, Spec, run};
use change::Change;
use listing::Listing;
use stage::Stage;
use watch::Watch;

/// Runs commands without namespaces: root, or root of a container, with Docker's capabilities is enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chroot;

impl Chroot {
    /// Runs `spec` to its end as [`crate::run()`] does, in a tree of its own.
    ///
    /// # Errors
    /// As [`crate::run()`]. What needs a namespace is refused: a network of the step's own or none, a terminal, rights
    /// beyond Docker's, an emulator registered for one step, and owners kept beside files.
    pub fn run(
        &self,
        spec: &Spec,
        output: &mut dyn FnMut(Output, &[u8]),
        cancel: &AtomicBool,
    ) -> Result<Exit, SandboxError> {
        if cancel.load(Ordering::Relaxed) {
            return Err(SandboxError::Canceled);
        }
        let group = ControlGroup::create(&spec.limits.resources, Holder::Sandbox, &spec.mounts)
            .map_err(|error| setup("making a control group", error))?;
        let mut plan = Plan::new(spec, None, &group)?;
        refuse(spec, &plan)?;
        let own = rustix::thread::capabilities(None)
            .map_err(|errno| setup("looking at capabilities", errno.into()))?;
        plan.capabilities = held(plan.capabilities, own.permitted);
        // Their relays are the stage's.
        plan.sockets.clear();

        let at = |what: &'static str| move |error: io::Error| setup(what, error);
        let tree = tree::take(&spec.rootfs, cancel)
            .map_err(|error| not_canceled("copying the layers", error, cancel))?;
        plan.tree = Some(c_string("the tree", tree.path().as_os_str().as_bytes())?);
        let mut stage = Stage::new(&tree, &spec.rootfs.work).map_err(at("preparing the tree"))?;
        for mount in plan.generated().iter().chain(&spec.mounts) {
            let target = mount.target.display();
            stage.mount(mount).map_err(|error| setup(&format!("mounting {target}"), error))?;
        }
        let mut before = Listing::of(tree.root(), &stage.identities()).map_err(at("listing the tree"))?;
        stage.wait_for_a_later_time(&before).map_err(at("listing the tree"))?;
        let watch = Watch::on(tree.root(), &before).map_err(at("watching the tree"))?;

        let ended = run::run_planned(spec, &plan, &group, output, cancel);
        let after = Listing::of(tree.root(), &stage.identities()).map_err(at("listing the tree"))?;
        let after = stage.take_down(&mut before, after).map_err(at("taking mounts out of the tree"))?;
        let exit = ended?;
        let written =
            watch.map_or_else(|| Ok(HashSet::new()), Watch::written).map_err(at("watching the tree"))?;
        let is_as_copied = Change::between(&before, &after, &written)
            .write(tree.root(), &spec.rootfs.upper)
            .map_err(at("copying what the step changed"))?;
        if exit.status == ExitStatus::Code(0) && is_as_copied {
            tree.keep(&spec.rootfs).map_err(at("keeping the tree"))?;
        }
        Ok(exit)
    }
}

/// What root of the step holds: what was asked for, of which the container may have less, without the one that leads out
/// of the tree.
fn held(asked: CapabilitySet, permitted: CapabilitySet) -> CapabilitySet {
    asked.intersection(permitted).difference(CapabilitySet::SYS_CHROOT)
}

fn refuse(spec: &Spec, plan: &Plan) -> Result<(), SandboxError> {
    let what = if spec.security == Security::Insecure {
        "--security=insecure would give the step all that kiln itself may do"
    } else if !spec.capabilities.added().is_empty() {
        "capabilities beyond Docker's would lead out of the tree: leave --cap-add out"
    } else if !matches!(spec.network, Network::Host) {
        "a step has the container's network: none of its own can be made, and it cannot be without"
    } else if matches!(spec.io, Io::Terminal(_)) {
        "there is no terminal"
    } else if plan.emulated.is_some() {
        "owners of files are emulated here, which only the embedded executor does"
    } else if plan.emulator.is_some() {
        "the emulator for this platform is registered by the embedded executor only"
    } else {
        return Ok(());
    };
    Err(setup("running by chroot", io::Error::new(io::ErrorKind::Unsupported, what)))
}

fn not_canceled(step: &str, error: io::Error, cancel: &AtomicBool) -> SandboxError {
    match cancel.load(Ordering::Relaxed) {
        true => SandboxError::Canceled,
        false => setup(step, error),
    }
}
