//! Devices of steps with all rights, as BuildKit gives them (FEATURES RN34).

use std::path::{Path, PathBuf};

use crate::{DeviceKind, DeviceNode, Mount, MountKind, userns};

/// Name, major and minor number of character devices, from the kernel's `admin-guide/devices.txt`.
const DEVICES: [(&str, u32, u32); 6] = [
    ("kmsg", 1, 11),
    ("net/tun", 10, 200),
    ("cuse", 10, 203),
    ("fuse", 10, 229),
    ("kvm", 10, 232),
    ("loop-control", 10, 237),
];
/// Major number of loop devices.
const LOOP: u32 = 7;
/// Loop devices beyond those that the host has: what is attached during the step needs a node.
const SPARE_LOOPS: u32 = 8;
/// Loop devices at most.
const MAX_LOOPS: u32 = 256;
const MODE: u32 = 0o666;

/// The devices that a step with all rights has beyond those of every step.
///
/// None for an ordinary user: in his namespace the kernel lets no node work but the host's, which are root's.
pub fn insecure_devices() -> Vec<Mount> {
    if !userns::is_initial() {
        return Vec::new();
    }
    let character = DEVICES.map(|(name, major, minor)| node(name, DeviceKind::Character, major, minor));
    let known = (0..MAX_LOOPS).find(|number| !Path::new(&format!("/dev/loop{number}")).exists());
    let loops = known.map_or(MAX_LOOPS, |known| MAX_LOOPS.min(known + SPARE_LOOPS));
    let block = (0..loops).map(|number| node(&format!("loop{number}"), DeviceKind::Block, LOOP, number));
    character.into_iter().chain(block).collect()
}

fn node(name: &str, kind: DeviceKind, major: u32, minor: u32) -> Mount {
    let path: PathBuf = Path::new("/dev").join(name);
    let node = DeviceNode { host: path.clone(), kind, major, minor, mode: MODE, uid: Some(0), gid: Some(0) };
    Mount { target: path, kind: MountKind::Device(node), no_exec: false }
}
