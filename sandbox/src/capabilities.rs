//! Capabilities of the process inside.

use std::io;

use rustix::thread::CapabilitySet;

use crate::SandboxError;
use crate::plan::setup;

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

/// What root of a step holds: Docker's set, or more or less of it as the user of kiln asked (never a Dockerfile).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capabilities {
    set: CapabilitySet,
    /// The set is all that there are, as far as this process has them.
    as_far_as_permitted: bool,
    /// What a step that has all others is without: what was dropped, be it Docker's or not.
    withheld: CapabilitySet,
}

impl Default for Capabilities {
    fn default() -> Capabilities {
        Capabilities { set: DEFAULT, as_far_as_permitted: false, withheld: CapabilitySet::empty() }
    }
}

impl Capabilities {
    /// Docker's set with `added` and without `dropped`: names of capabilities(7) in any case, with `CAP_` or not, or
    /// `all`. What is dropped along with all may be added again, and the other way round.
    ///
    /// # Errors
    /// A name that there is not, or one that is in both lists.
    pub fn new(added: &[String], dropped: &[String]) -> Result<Capabilities, CapabilityError> {
        let (added, adds_all) = parse_all(added)?;
        let (dropped, drops_all) = parse_all(dropped)?;
        let both = added.intersection(dropped);
        if adds_all && drops_all {
            return Err(CapabilityError::AddedAndDropped("all".to_owned()));
        }
        if let Some((name, _)) = both.iter_names().next() {
            return Err(CapabilityError::AddedAndDropped(format!("CAP_{name}")));
        }
        let base = match (adds_all, drops_all) {
            (true, _) => CapabilitySet::all(),
            (_, true) => CapabilitySet::empty(),
            _ => DEFAULT,
        };
        let withheld = if drops_all { CapabilitySet::all().difference(added) } else { dropped };
        Ok(Capabilities {
            set: base.difference(dropped).union(added),
            as_far_as_permitted: adds_all,
            withheld,
        })
    }

    /// Their bits, as the kernel counts them.
    pub fn bits(&self) -> u64 {
        self.set.bits()
    }

    /// The names with `CAP_`, in the kernel's order.
    pub fn names(&self) -> Vec<String> {
        self.set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
    }

    /// The bits of what even a step with all rights is without.
    pub fn withheld_bits(&self) -> u64 {
        self.withheld.bits()
    }

    /// What is left for a step with all rights: all that this process has itself, but for what was dropped.
    pub(crate) fn of_an_insecure_step(&self) -> Result<CapabilitySet, SandboxError> {
        Ok(own()?.difference(self.withheld))
    }

    /// Whether a step with all rights is without some.
    pub(crate) fn withholds(&self) -> bool {
        !self.withheld.is_empty()
    }

    /// Those that Docker's set has not.
    pub(crate) fn added(&self) -> CapabilitySet {
        self.set.difference(DEFAULT)
    }

    /// Those of Docker's set that are missing.
    pub(crate) fn dropped(&self) -> CapabilitySet {
        DEFAULT.difference(self.set)
    }

    /// The set for a step of this process, which gives away no more than it has.
    pub(crate) fn of_a_step(&self) -> Result<CapabilitySet, SandboxError> {
        if self.added().is_empty() {
            return Ok(self.set);
        }
        let own = own()?;
        if self.as_far_as_permitted {
            return Ok(self.set.intersection(own.union(DEFAULT)));
        }
        match self.added().difference(own).iter_names().next() {
            None => Ok(self.set),
            Some((name, _)) => {
                let why = format!("kiln itself does not have CAP_{name} here");
                Err(setup(
                    "giving capabilities to a step",
                    io::Error::new(io::ErrorKind::PermissionDenied, why),
                ))
            }
        }
    }
}

/// What this process has to give.
fn own() -> Result<CapabilitySet, SandboxError> {
    let own = rustix::thread::capabilities(None);
    Ok(own.map_err(|errno| setup("asking for own capabilities", errno.into()))?.permitted)
}

/// The named ones, and whether `all` is among the names.
fn parse_all(names: &[String]) -> Result<(CapabilitySet, bool), CapabilityError> {
    let mut set = CapabilitySet::empty();
    let mut all = false;
    for text in names {
        let name = text.trim().to_ascii_uppercase();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        match CapabilitySet::from_name(name) {
            _ if name == "ALL" => all = true,
            Some(capability) => set |= capability,
            None => return Err(CapabilityError::Unknown(text.clone())),
        }
    }
    Ok((set, all))
}

/// What was wrong with a list of capabilities.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CapabilityError {
    /// There is none of this name.
    #[error("there is no capability `{0}`")]
    Unknown(String),
    /// It is in both lists.
    #[error("{0} is both added and dropped")]
    AddedAndDropped(String),
}

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

    #[test]
    fn sets_are_changed_as_docker_and_podman_do() {
        let of = |added: &[&str], dropped: &[&str]| {
            let texts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
            Capabilities::new(&texts(added), &texts(dropped))
                .map(|capabilities| capabilities.set)
                .map_err(|e| e.to_string())
        };
        assert_eq!(of(&[], &["cap_kill", "SYS_ADMIN"]), Ok(DEFAULT.difference(CapabilitySet::KILL)));
        assert_eq!(of(&["CAP_NET_ADMIN"], &[]), Ok(DEFAULT.union(CapabilitySet::NET_ADMIN)));
        assert_eq!(of(&["chown"], &["ALL"]), Ok(CapabilitySet::CHOWN));
        assert_eq!(of(&["all"], &["chown"]), Ok(CapabilitySet::all().difference(CapabilitySet::CHOWN)));
        assert_eq!(of(&["no"], &[]), Err("there is no capability `no`".to_owned()));
        assert_eq!(of(&["kill"], &["cap_kill"]), Err("CAP_KILL is both added and dropped".to_owned()));
        assert_eq!(of(&["all"], &["all"]), Err("all is both added and dropped".to_owned()));
    }
}
