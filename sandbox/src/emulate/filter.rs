//! The filter that hands calls over, and which calls they are.

use std::sync::LazyLock;

use crate::bpf::{
    ALLOW, HAND_OVER, JEQ, JSET, NATIVE_ARCH, OFFSET_ARCH, OFFSET_ARGUMENTS, OFFSET_NUMBER, jump, load,
};
use crate::sys::Instruction;

/// The compiled filter.
pub(crate) static FILTER: LazyLock<Vec<Instruction>> = LazyLock::new(compile);

/// What a call is about; numbers are the places of its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    GetUser,
    GetEffectiveUser,
    GetGroup,
    GetEffectiveGroup,
    GetUsers,
    GetGroups,
    GetSupplementaryGroups,
    SetUser,
    SetGroup,
    SetTwoUsers,
    SetTwoGroups,
    SetUsers,
    SetGroups,
    SetFilesUser,
    SetFilesGroup,
    SetSupplementaryGroups,
    /// prctl(2) with `PR_SET_KEEPCAPS`.
    KeepRights,
    /// Ids from this place on.
    ChangeOwner(Path, usize),
    /// The buffer's place.
    Stat(Path, usize),
    Statx(Path),
    /// The mode's place, and whether the effective ids are asked for.
    Access(Path, usize, Option<usize>),
    /// The flags' place (none: those of creat(2)), then the mode's.
    Open(Path, Option<usize>, usize),
    OpenHow,
    MakeDirectory(Path, usize),
    Execute(Path),
    End,
}

/// Where a path stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Descriptor; none: the working directory.
    pub(crate) directory: Option<usize>,
    /// The path; none: the descriptor itself.
    pub(crate) path: Option<usize>,
    /// `AT_*` flags.
    pub(crate) flags: Option<usize>,
    /// Whether a link is followed where no flag says otherwise.
    pub(crate) follow: bool,
}

#[cfg(target_arch = "x86_64")]
const PLAIN: Path = Path { directory: None, path: Some(0), flags: None, follow: true };
#[cfg(target_arch = "x86_64")]
const LINK: Path = Path { follow: false, ..PLAIN };
const DESCRIPTOR: Path = Path { directory: Some(0), path: None, flags: None, follow: true };
const AT: Path = Path { directory: Some(0), path: Some(1), flags: None, follow: true };

const fn at(flags: usize) -> Path {
    Path { flags: Some(flags), ..AT }
}

/// All calls that are handed over. Making links, pipes and devices is not: none can have an owner noted.
pub(crate) const CALLS: &[(libc::c_long, Subject)] = &[
    (libc::SYS_getuid, Subject::GetUser),
    (libc::SYS_geteuid, Subject::GetEffectiveUser),
    (libc::SYS_getgid, Subject::GetGroup),
    (libc::SYS_getegid, Subject::GetEffectiveGroup),
    (libc::SYS_getresuid, Subject::GetUsers),
    (libc::SYS_getresgid, Subject::GetGroups),
    (libc::SYS_getgroups, Subject::GetSupplementaryGroups),
    (libc::SYS_setuid, Subject::SetUser),
    (libc::SYS_setgid, Subject::SetGroup),
    (libc::SYS_setreuid, Subject::SetTwoUsers),
    (libc::SYS_setregid, Subject::SetTwoGroups),
    (libc::SYS_setresuid, Subject::SetUsers),
    (libc::SYS_setresgid, Subject::SetGroups),
    (libc::SYS_setfsuid, Subject::SetFilesUser),
    (libc::SYS_setfsgid, Subject::SetFilesGroup),
    (libc::SYS_setgroups, Subject::SetSupplementaryGroups),
    (libc::SYS_prctl, Subject::KeepRights),
    (libc::SYS_fchown, Subject::ChangeOwner(DESCRIPTOR, 1)),
    (libc::SYS_fchownat, Subject::ChangeOwner(at(4), 2)),
    (libc::SYS_fstat, Subject::Stat(DESCRIPTOR, 1)),
    (libc::SYS_newfstatat, Subject::Stat(at(3), 2)),
    (libc::SYS_statx, Subject::Statx(at(2))),
    (libc::SYS_faccessat, Subject::Access(AT, 2, None)),
    (libc::SYS_faccessat2, Subject::Access(at(3), 2, Some(3))),
    (libc::SYS_openat, Subject::Open(AT, Some(2), 3)),
    (libc::SYS_openat2, Subject::OpenHow),
    (libc::SYS_mkdirat, Subject::MakeDirectory(AT, 2)),
    (libc::SYS_execveat, Subject::Execute(at(4))),
    (libc::SYS_exit_group, Subject::End),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_execve, Subject::Execute(PLAIN)),
    #[cfg(target_arch = "aarch64")]
    (libc::SYS_execve, Subject::Execute(Path { directory: None, path: Some(0), flags: None, follow: true })),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chown, Subject::ChangeOwner(PLAIN, 1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lchown, Subject::ChangeOwner(LINK, 1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_stat, Subject::Stat(PLAIN, 1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lstat, Subject::Stat(LINK, 1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_access, Subject::Access(PLAIN, 1, None)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, Subject::Open(PLAIN, Some(1), 2)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, Subject::Open(PLAIN, None, 1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, Subject::MakeDirectory(PLAIN, 1)),
];

/// Flags of open(2) without which nothing is made or written.
const WRITING: u32 = (libc::O_CREAT | libc::O_WRONLY | libc::O_RDWR) as u32;

/// Of another ABI's calls the owners are the kernel's; whether they are allowed at all is the other filter's matter.
fn compile() -> Vec<Instruction> {
    let mut program = vec![load(OFFSET_ARCH), jump(JEQ, NATIVE_ARCH, 1, 0), ALLOW, load(OFFSET_NUMBER)];
    for &(number, subject) in CALLS {
        match subject {
            // Reading is by far the most frequent, and anybody may.
            Subject::Open(_, Some(flags), _) => program.extend([
                jump(JEQ, number as u32, 0, 4),
                load(OFFSET_ARGUMENTS + 8 * flags as u32),
                jump(JSET, WRITING, 0, 1),
                HAND_OVER,
                ALLOW,
            ]),
            Subject::KeepRights => program.extend([
                jump(JEQ, number as u32, 0, 4),
                load(OFFSET_ARGUMENTS),
                jump(JEQ, libc::PR_SET_KEEPCAPS as u32, 0, 1),
                HAND_OVER,
                ALLOW,
            ]),
            _ => program.extend([jump(JEQ, number as u32, 0, 1), HAND_OVER]),
        }
    }
    program.push(ALLOW);
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf;

    fn answer(number: libc::c_long, arguments: [u64; 3]) -> u32 {
        bpf::run(&FILTER, NATIVE_ARCH, number as u32, arguments)
    }

    #[test]
    fn every_call_of_the_table_is_handed_over_but_opening_to_read() {
        for &(number, _) in CALLS {
            let all_bits = match number {
                libc::SYS_prctl => [libc::PR_SET_KEEPCAPS as u64, 1, 0],
                _ => [u64::MAX; 3],
            };
            assert_eq!(answer(number, all_bits), libc::SECCOMP_RET_USER_NOTIF, "call {number}");
        }
        for number in [libc::SYS_read, libc::SYS_prctl, libc::SYS_clone, libc::SYS_exit] {
            assert_eq!(answer(number, [u64::MAX; 3]), libc::SECCOMP_RET_ALLOW);
        }
        let reading = (libc::O_RDONLY | libc::O_CLOEXEC) as u64;
        assert_eq!(answer(libc::SYS_openat, [0, 0, reading]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(answer(libc::SYS_openat, [0, 0, libc::O_WRONLY as u64]), libc::SECCOMP_RET_USER_NOTIF);
    }
}
