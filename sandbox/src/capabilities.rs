//! Capabilities of the process inside.

use rustix::thread::CapabilitySet;

/// Docker's default set; what a build step needs to install packages, and nothing that reaches the host.
pub(crate) const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Capabilities that the child tries to drop from the bounding set; beyond the kernel's last one that is an error
/// which ends the loop.
pub(crate) const HIGHEST: u32 = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_dockers_fourteen() {
        // As `docker run` shows in CapBnd.
        assert_eq!(DEFAULT.bits(), 0xa804_25fb);
    }
}
