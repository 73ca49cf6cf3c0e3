//! Who a process says to be, by the kernel's rules (credentials(7), setresuid(2)).

/// A process's users and groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: Ids,
    pub(crate) group: Ids,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Root's rights are to outlast root's id (`PR_SET_KEEPCAPS`).
    pub(crate) keeps_rights: bool,
    /// They have.
    has_kept_rights: bool,
}

/// The four ids of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) real: u32,
    pub(crate) effective: u32,
    pub(crate) saved: u32,
    /// Whose files it opens and makes.
    pub(crate) files: u32,
}

/// "As it was", in the calls that take several ids.
pub(crate) const KEEP: u32 = u32::MAX;

/// Not allowed to become that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

impl Ids {
    pub(crate) const fn all(id: u32) -> Ids {
        Ids { real: id, effective: id, saved: id, files: id }
    }

    fn has(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// setuid(2), setgid(2).
    pub(crate) fn set(&mut self, id: u32, privileged: bool) -> Result<(), Refused> {
        if privileged {
            *self = Ids::all(id);
            return Ok(());
        }
        if id != self.real && id != self.saved {
            return Err(Refused);
        }
        (self.effective, self.files) = (id, id);
        Ok(())
    }

    /// setreuid(2), setregid(2).
    pub(crate) fn set_two(&mut self, real: u32, effective: u32, privileged: bool) -> Result<(), Refused> {
        let before = *self;
        if !privileged {
            let real_is_own = real == KEEP || real == self.real || real == self.effective;
            let effective_is_own = effective == KEEP || self.has(effective);
            if !real_is_own || !effective_is_own {
                return Err(Refused);
            }
        }
        if real != KEEP {
            self.real = real;
        }
        if effective != KEEP {
            self.effective = effective;
        }
        if real != KEEP || (effective != KEEP && effective != before.real) {
            self.saved = self.effective;
        }
        self.files = self.effective;
        Ok(())
    }

    /// setresuid(2), setresgid(2).
    pub(crate) fn set_three(
        &mut self,
        real: u32,
        effective: u32,
        saved: u32,
        privileged: bool,
    ) -> Result<(), Refused> {
        let wanted = [real, effective, saved];
        if !privileged && wanted.into_iter().any(|id| id != KEEP && !self.has(id)) {
            return Err(Refused);
        }
        for (slot, id) in [&mut self.real, &mut self.effective, &mut self.saved].into_iter().zip(wanted) {
            if id != KEEP {
                *slot = id;
            }
        }
        self.files = self.effective;
        Ok(())
    }

    /// setfsuid(2), setfsgid(2), which never fail; answers what it was.
    pub(crate) fn set_files(&mut self, id: u32, privileged: bool) -> u32 {
        let before = self.files;
        if privileged || self.has(id) || id == self.files {
            self.files = id;
        }
        before
    }
}

impl Credentials {
    pub(crate) fn new(uid: u32, gid: u32, groups: Vec<u32>) -> Credentials {
        let (user, group) = (Ids::all(uid), Ids::all(gid));
        Credentials { user, group, groups, keeps_rights: false, has_kept_rights: false }
    }

    /// Whether it may become anybody and change every owner. Single capabilities are not followed: who is root has
    /// them.
    pub(crate) fn is_privileged(&self) -> bool {
        self.user.effective == 0 || self.has_kept_rights
    }

    /// Makes it another user by one of the calls of [`Ids`].
    pub(crate) fn become_user(
        &mut self,
        set: impl FnOnce(&mut Ids, bool) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let was_privileged = self.is_privileged();
        set(&mut self.user, was_privileged)?;
        if self.user.effective != 0 {
            self.has_kept_rights = was_privileged && self.keeps_rights;
        }
        Ok(())
    }

    /// Whether files are root's to it.
    pub(crate) fn opens_as_root(&self) -> bool {
        self.user.files == 0
    }

    pub(crate) fn is_in_group(&self, gid: u32) -> bool {
        self.group.files == gid || self.groups.contains(&gid)
    }

    /// Whether a file of this owner and mode may be used as `wanted` says (4 read, 2 write, 1 execute or search).
    pub(crate) fn may(&self, wanted: u32, mode: u32, uid: u32, gid: u32) -> bool {
        if self.opens_as_root() {
            return true;
        }
        let granted = if uid == self.user.files {
            mode >> 6
        } else if self.is_in_group(gid) {
            mode >> 3
        } else {
            mode
        };
        granted & wanted == wanted
    }

    /// Executing a file of this mode and owner.
    pub(crate) fn execute(&mut self, mode: u32, uid: u32, gid: u32) {
        (self.keeps_rights, self.has_kept_rights) = (false, false);
        if mode & SET_USER_ID != 0 {
            (self.user.effective, self.user.files) = (uid, uid);
        }
        if mode & SET_GROUP_ID != 0 && mode & GROUP_EXECUTES != 0 {
            (self.group.effective, self.group.files) = (gid, gid);
        }
        // As every exec does.
        self.user.saved = self.user.effective;
        self.group.saved = self.group.effective;
    }
}

const SET_USER_ID: u32 = 0o4000;
pub(crate) const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTES: u32 = 0o010;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_root_became_cannot_go_back() {
        // What apt looks for after it has dropped its rights.
        let mut apt = Credentials::new(0, 0, vec![]);
        apt.group.set_three(65534, 65534, 65534, true).unwrap();
        apt.user.set_three(42, 42, 42, true).unwrap();
        assert!(!apt.is_privileged());
        for attempt in [apt.user.clone().set(0, apt.is_privileged()), {
            let mut user = apt.user;
            user.set_three(KEEP, 0, KEEP, apt.is_privileged())
        }] {
            assert_eq!(attempt, Err(Refused));
        }
        assert_eq!(apt.user, Ids::all(42));
    }

    #[test]
    fn rights_that_are_kept_last_until_another_program_is_executed() {
        // As setpriv(1) does: the user first, then the group.
        let mut setpriv = Credentials::new(0, 0, vec![]);
        setpriv.keeps_rights = true;
        setpriv.become_user(|ids, privileged| ids.set_three(7, 7, 7, privileged)).unwrap();
        assert!(setpriv.is_privileged());
        setpriv.execute(0o755, 0, 0);
        assert!(!setpriv.is_privileged());
    }

    #[test]
    fn a_saved_id_is_a_way_back() {
        let mut ids = Ids::all(0);
        ids.set_three(KEEP, 1000, KEEP, true).unwrap();
        assert_eq!(ids, Ids { real: 0, effective: 1000, saved: 0, files: 1000 });
        ids.set(0, false).unwrap();
        assert_eq!((ids.effective, ids.files), (0, 0));
        let mut swapped = Ids { real: 5, effective: 6, saved: 6, files: 6 };
        swapped.set_two(6, 5, false).unwrap();
        assert_eq!(swapped, Ids { real: 6, effective: 5, saved: 5, files: 5 });
    }

    #[test]
    fn rights_go_by_owner_then_group_then_others() {
        let user = Credentials::new(1000, 1000, vec![50]);
        assert!(user.may(6, 0o600, 1000, 0));
        assert!(!user.may(2, 0o470, 1000, 50), "the owner's bits count, not the group's");
        assert!(user.may(2, 0o620, 0, 50));
        assert!(!user.may(2, 0o644, 0, 0));
        assert!(Credentials::new(0, 0, vec![]).may(2, 0, 7, 7));
    }

    #[test]
    fn a_set_user_id_program_runs_as_its_owner() {
        let mut user = Credentials::new(1000, 1000, vec![]);
        user.execute(0o4755, 0, 0);
        assert_eq!(user.user, Ids { real: 1000, effective: 0, saved: 0, files: 0 });
        assert_eq!(user.group, Ids::all(1000));
        user.execute(0o2744, 0, 42);
        assert_eq!(user.group, Ids::all(1000), "without the right to execute it is a lock's mark");
    }
}
