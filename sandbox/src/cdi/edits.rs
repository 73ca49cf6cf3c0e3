//! What devices bring into a sandbox.

use std::path::{Path, PathBuf};

use super::DeviceError;
use super::document::{ContainerEdits, DeviceNode as Node, Mount as HostMount};
use crate::{DeviceKind, DeviceNode, Mount, MountKind};

/// What devices bring into a sandbox.
#[derive(Debug, Default)]
pub struct DeviceEdits {
    /// `NAME=value`; takes the place of a variable that is there.
    pub env: Vec<String>,
    /// Device nodes and mounts.
    pub mounts: Vec<Mount>,
    /// Groups that the process is in besides its own.
    pub groups: Vec<u32>,
}

/// Mode of a node whose specification gives none; runtimes' own.
const NODE_MODE: u32 = 0o666;
const HOOKS_WHY: &str = "and kiln runs no program of the host's";
const NETWORK_WHY: &str = "and kiln hands no interface of the host's to a step";
const CACHE_WHY: &str = "which kiln does not assign";

impl DeviceEdits {
    pub(super) fn add(&mut self, name: &str, edits: &ContainerEdits) -> Result<(), DeviceError> {
        let unsupported = [
            (!edits.hooks.is_empty(), "hooks", HOOKS_WHY),
            (!edits.net_devices.is_empty(), "network interfaces", NETWORK_WHY),
            (edits.intel_rdt.is_some(), "a share of processor caches (intelRdt)", CACHE_WHY),
        ];
        if let Some((_, what, why)) = unsupported.into_iter().find(|(wanted, ..)| *wanted) {
            return Err(DeviceError::Unsupported { name: name.to_owned(), what, why });
        }
        for variable in &edits.env {
            if variable.find('=').is_none_or(|at| at == 0) {
                return Err(unusable(name, variable, "it is no variable"));
            }
            self.env.push(variable.clone());
        }
        for node in &edits.device_nodes {
            let mount = mount_of_node(name, node)?;
            self.add_mount(mount);
        }
        for mount in &edits.mounts {
            let mount = mount_of_host(name, mount)?;
            self.add_mount(mount);
        }
        // Group 0 is nobody's to give.
        self.groups.extend(edits.additional_gids.iter().filter(|gid| **gid != 0));
        Ok(())
    }

    /// What comes later takes the place of what is there.
    fn add_mount(&mut self, mount: Mount) {
        self.mounts.retain(|other| other.target != mount.target);
        self.mounts.push(mount);
    }
}

fn mount_of_node(name: &str, node: &Node) -> Result<Mount, DeviceError> {
    let shown = node.path.display();
    absolute(name, &node.path)?;
    let host = node.host_path.clone().unwrap_or_else(|| node.path.clone());
    absolute(name, &host)?;
    let wrong = |reason: &str| unusable(name, shown, reason);
    let reads_and_writes = node.permissions.contains('r') && node.permissions.contains('w');
    if !node.permissions.is_empty() && !reads_and_writes {
        return Err(wrong("a device that may be read only, or written only, is not supported"));
    }
    // As runtimes have it: what the specification leaves out, the host's node says.
    let (kind, major, minor) = match node.kind.as_str() {
        "p" => {
            let kind = MountKind::Bind { source: host, subpath: PathBuf::new(), read_only: false };
            return Ok(Mount { target: node.path.clone(), kind, no_exec: false });
        }
        "c" | "u" if node.major > 0 => (DeviceKind::Character, node.major, node.minor),
        "b" if node.major > 0 => (DeviceKind::Block, node.major, node.minor),
        "" | "c" | "u" | "b" => {
            let found = DeviceNode::of_host(&host).map_err(|error| unusable(name, host.display(), error))?;
            let is_wanted = match found.kind {
                DeviceKind::Character => node.kind != "b",
                DeviceKind::Block => matches!(node.kind.as_str(), "" | "b"),
            };
            if !is_wanted {
                return Err(unusable(name, host.display(), "it is no such device"));
            }
            (found.kind, found.major, found.minor)
        }
        _ => return Err(wrong("its type is none of b, c, u and p")),
    };
    let mode = node.file_mode.unwrap_or(NODE_MODE) & 0o7777;
    let target = node.path.clone();
    let node = DeviceNode { host, kind, major, minor, mode, uid: node.uid, gid: node.gid };
    Ok(Mount { target, kind: MountKind::Device(node), no_exec: false })
}

fn mount_of_host(name: &str, mount: &HostMount) -> Result<Mount, DeviceError> {
    absolute(name, &mount.container_path)?;
    absolute(name, &mount.host_path)?;
    if !matches!(mount.kind.as_str(), "" | "none" | "bind" | "rbind") {
        let what = format!("a mount of type {:?}", mount.kind);
        return Err(unusable(name, what, "only what is on the host can be mounted"));
    }
    let read_only = mount.options.iter().any(|option| option == "ro");
    let source = mount.host_path.clone();
    let kind = MountKind::Bind { source, subpath: PathBuf::new(), read_only };
    Ok(Mount { target: mount.container_path.clone(), kind, no_exec: false })
}

fn absolute(name: &str, path: &Path) -> Result<(), DeviceError> {
    if path.is_absolute() { Ok(()) } else { Err(unusable(name, path.display(), "it is no absolute path")) }
}

fn unusable(name: &str, what: impl ToString, reason: impl ToString) -> DeviceError {
    DeviceError::Unusable { name: name.to_owned(), what: what.to_string(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(text: &str) -> Result<DeviceEdits, String> {
        let edits: ContainerEdits = serde_json::from_str(text).unwrap();
        let mut all = DeviceEdits::default();
        all.add("v.com/c=d", &edits).map_err(|error| error.to_string())?;
        Ok(all)
    }

    #[test]
    fn a_node_is_made_of_the_specification_and_of_the_hosts_node() {
        let found = edits(
            r#"{"deviceNodes": [
                {"path": "/dev/other", "hostPath": "/dev/null", "uid": 7},
                {"path": "/dev/own", "type": "b", "major": 7, "minor": 3, "fileMode": 384, "permissions": "rwm"}
            ], "additionalGids": [0, 44]}"#,
        )
        .unwrap();
        let node = |index: usize| match &found.mounts[index].kind {
            MountKind::Device(node) => (node.kind, node.major, node.minor, node.mode, node.uid),
            other => panic!("{other:?}"),
        };
        assert_eq!(node(0), (DeviceKind::Character, 1, 3, 0o666, Some(7)));
        assert_eq!(node(1), (DeviceKind::Block, 7, 3, 0o600, None));
        assert_eq!(found.groups, [44]);
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_the_reason() {
        let refused = |text: &str| edits(text).unwrap_err();
        insta::assert_snapshot!(
            refused(r#"{"hooks": [{"hookName": "createContainer", "path": "/usr/bin/x"}]}"#),
            @"device v.com/c=d needs hooks, and kiln runs no program of the host's"
        );
        insta::assert_snapshot!(
            refused(r#"{"deviceNodes": [{"path": "/dev/nothing-here"}]}"#),
            @"device v.com/c=d: /dev/nothing-here: No such file or directory (os error 2)"
        );
        insta::assert_snapshot!(
            refused(r#"{"deviceNodes": [{"path": "/dev/null", "permissions": "r"}]}"#),
            @"device v.com/c=d: /dev/null: a device that may be read only, or written only, is not supported"
        );
        insta::assert_snapshot!(
            refused(r#"{"mounts": [{"hostPath": "x", "containerPath": "/x"}]}"#),
            @"device v.com/c=d: x: it is no absolute path"
        );
    }
}
