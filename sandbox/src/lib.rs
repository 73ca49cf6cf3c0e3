//! One process tree in namespaces of its own on a root file system made of layers: by kiln itself, or by an OCI runtime;
//! where no namespace can be made, in a copy of the root by chroot(2).
//!
//! Here: overlayfs, namespaces, mounts, capabilities, seccomp, limits, network, signals, terminals; users of an image; devices
//! that the host describes (`cdi`).
//! Not here: what to run and why (`kiln-solver`), where layers are kept (`kiln-cache`).
//!
//! Everything that allocates is prepared before the fork (`plan`); the child makes raw system calls only (`enter`, the
//! steps in their order) and reports what fails through a pipe (`report`), so that a host program with threads is safe.
//!
//! Invariants: nothing is mounted that the host sees; a killed engine leaves no process and no mount; mount points that
//! kiln made are not in the upper directory afterwards. Start at [`run`].

mod binfmt;
mod bpf;
mod capabilities;
mod cdi;
mod chroot;
mod control_group;
mod doctor;
mod emulate;
mod enter;
mod etc_files;
mod host_device;
mod identity;
mod insecure;
mod limits;
mod masks;
mod network;
mod oci;
mod on_demand;
mod plan;
mod report;
mod rootfs;
mod run;
mod seccomp;
mod seccomp_table;
mod socket;
mod spec;
mod stubs;
mod supervise;
mod sys;
mod terminal;
mod userns;

pub use binfmt::{Binfmt, Emulator, missing_hint};
pub use capabilities::{Capabilities, CapabilityError};
pub use cdi::{DeviceEdits, DeviceError, Devices, SPEC_DIRECTORIES};
pub use chroot::{Chroot, Trees};
pub use doctor::{Finding, State, examine};
pub use emulate::OWNER_ATTRIBUTE;
pub use host_device::HostDevice;
pub use identity::{Identity, IdentityError, resolve_group, resolve_user};
pub use insecure::insecure_devices;
pub use network::{HostAccess, IsolatedNetwork, NetworkError};
pub use oci::OciRuntime;
pub use run::run;
pub use spec::{
    DeviceKind, DeviceNode, Dns, Exit, ExitStatus, HostAddress, HostEntry, Io, Limits, Mount, MountKind,
    Network, Output, Resources, Rootfs, SandboxError, Security, SecurityOptions, Spec, Swap, Terminal, Usage,
};
pub use userns::{Privileges, SingleIdReason, UserNamespaceError, enter_user_namespace, user_namespace};
