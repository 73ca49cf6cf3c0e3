//! Device nodes of the host's that the user of kiln shows to sandboxes, by their paths.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::{DeviceKind, DeviceNode};

/// A device node of the host's, and where it is inside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostDevice {
    /// On the host, no link.
    pub host: PathBuf,
    /// Absolute path inside.
    pub target: PathBuf,
}

/// So many nodes a directory may have: more is a mistake.
const MAX_NODES: usize = 1024;

impl HostDevice {
    /// What is at `host`, behind links: a device, or all that are below a directory, which are below `target` then.
    ///
    /// # Errors
    /// I/O; there is no device, or far too many.
    pub fn find(host: &Path, target: &Path) -> io::Result<Vec<HostDevice>> {
        let host = fs::canonicalize(host)?;
        let mut found = Vec::new();
        let mut pending = vec![(host, target.to_owned())];
        while let Some((host, target)) = pending.pop() {
            let kind = fs::symlink_metadata(&host)?.file_type();
            if kind.is_char_device() || kind.is_block_device() {
                found.push(HostDevice { host, target });
            } else if kind.is_dir() {
                for entry in fs::read_dir(&host)? {
                    let name = entry?.file_name();
                    pending.push((host.join(&name), target.join(&name)));
                }
            }
            if found.len() > MAX_NODES {
                return Err(io::Error::other(format!("there are more than {MAX_NODES} devices")));
            }
        }
        if found.is_empty() {
            return Err(io::Error::other("it is no device, and no directory with one"));
        }
        found.sort_by(|one, other| one.target.cmp(&other.target));
        Ok(found)
    }
}

impl DeviceNode {
    /// The node as the host has it, with its mode and owner.
    ///
    /// # Errors
    /// I/O; it is no device.
    pub fn of_host(host: &Path) -> io::Result<DeviceNode> {
        let found = fs::metadata(host)?;
        let kind = match found.file_type() {
            kind if kind.is_char_device() => DeviceKind::Character,
            kind if kind.is_block_device() => DeviceKind::Block,
            _ => return Err(io::Error::other("it is no device")),
        };
        Ok(DeviceNode {
            host: host.to_owned(),
            kind,
            major: rustix::fs::major(found.rdev()),
            minor: rustix::fs::minor(found.rdev()),
            mode: found.permissions().mode() & 0o7777,
            uid: Some(found.uid()),
            gid: Some(found.gid()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stands_for_the_devices_below_it() {
        let of = |host: &str, target: &str| HostDevice::find(Path::new(host), Path::new(target));
        let null = of("/dev/null", "/dev/x").unwrap();
        assert_eq!(null, [HostDevice { host: "/dev/null".into(), target: "/dev/x".into() }]);
        let node = DeviceNode::of_host(&null[0].host).unwrap();
        assert_eq!((node.kind, node.major, node.minor, node.mode), (DeviceKind::Character, 1, 3, 0o666));
        let all = of("/dev", "/inside").unwrap();
        assert!(
            all.iter()
                .any(|one| one.host == Path::new("/dev/zero") && one.target == Path::new("/inside/zero"))
        );
        for wrong in ["/etc/passwd", "/nonexistent", "/proc/self/fdinfo"] {
            assert!(of(wrong, "/x").is_err(), "{wrong}");
        }
    }
}
