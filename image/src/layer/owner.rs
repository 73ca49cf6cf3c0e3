//! Who a file shall belong to, also where the kernel does not let it: in a user namespace with a single id every file is
//! that id's, and the intended owner stands beside it in an attribute. Links and device nodes cannot have one and lose it.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, Gid, Uid, XattrFlags};
use rustix::io::Errno;

/// The attribute of an owner: `UID:GID` in decimal. The sandbox writes the same.
pub const NOTE: &str = "user.kiln.owner";

/// Whether this process has one id only; asked once, so a program enters its user namespace before.
fn has_single_id() -> bool {
    static SINGLE: OnceLock<bool> = OnceLock::new();
    *SINGLE.get_or_init(|| {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        map.lines().count() == 1 && map.split_ascii_whitespace().next_back() == Some("1")
    })
}

/// Gives an open file to its owner.
///
/// # Errors
/// As fchown(2); `EINVAL` where the user namespace does not have the owner.
pub fn give(file: impl AsFd, uid: u32, gid: u32) -> Result<(), Errno> {
    let file = file.as_fd();
    match rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        Err(Errno::INVAL) if has_single_id() => {
            rustix::fs::fsetxattr(file, NOTE, note(uid, gid).as_bytes(), XattrFlags::empty())
        }
        other => other,
    }
}

/// Gives what is at `path` in `directory` to its owner; a link itself.
///
/// # Errors
/// As [`give`].
pub fn give_at(directory: BorrowedFd<'_>, path: impl AsRef<OsStr>, uid: u32, gid: u32) -> Result<(), Errno> {
    let path = path.as_ref();
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::chownat(directory, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags) {
        Err(Errno::INVAL) if has_single_id() => {
            let full = if path.as_bytes().starts_with(b"/") {
                path.as_bytes().to_vec()
            } else {
                [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), path.as_bytes()].concat()
            };
            let full = CString::new(full).map_err(|_| Errno::INVAL)?;
            match rustix::fs::lsetxattr(&full, NOTE, note(uid, gid).as_bytes(), XattrFlags::empty()) {
                // Only files and directories have users' attributes.
                Err(Errno::PERM) => Ok(()),
                other => other,
            }
        }
        other => other,
    }
}

/// Takes the note of an owner out of a file's attributes, where this process writes such notes.
pub fn take_noted(xattrs: &mut Vec<(OsString, Vec<u8>)>) -> Option<(u32, u32)> {
    let at = xattrs.iter().position(|(name, _)| name == NOTE).filter(|_| has_single_id())?;
    parse(&xattrs.remove(at).1)
}

fn note(uid: u32, gid: u32) -> String {
    format!("{uid}:{gid}")
}

fn parse(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_as_it_was_written_and_others_are_none() {
        assert_eq!(parse(note(0, u32::MAX).as_bytes()), Some((0, u32::MAX)));
        for bad in [&b""[..], b"1", b"1:", b"1:x", b"-1:0", b"1:2:3", b"\xff:1"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn where_there_are_many_ids_an_attribute_of_that_name_is_one_as_any_other() {
        if has_single_id() {
            eprintln!("skipped: this process has one id");
            return;
        }
        let mut xattrs = vec![(OsString::from(NOTE), b"1:2".to_vec())];
        assert_eq!(take_noted(&mut xattrs), None);
        assert_eq!(xattrs.len(), 1);
    }
}
