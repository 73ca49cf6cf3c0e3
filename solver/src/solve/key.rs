//! What a step key is made of (design, "Contents, keys, records").
//!
//! A key is SHA-256 over an unambiguous encoding: every word is preceded by its length, every list by its count, every
//! optional value by a byte, and the whole by the name of the key's kind with a version. Left out is whatever cannot
//! change the result (FEATURES CA1): proxies, secrets' values, addresses of hosts, ids and sharing of cache mounts.

use kiln_cache::{Layer, StepKey};
use kiln_image::{ContentsDigest, Digest, Platform};
use kiln_parser::CacheSharing;
use kiln_sandbox::{Capabilities, HostDevice, SecurityOptions};
use sha2::{Digest as _, Sha256};

use super::Snapshot;
use crate::graph::{Exec, ExecMount, ExecMountKind, ExtraGroups, NetworkMode, Volume, VolumeAccess};

/// Raised whenever the encoding or the meaning of a step changes: old records are then never found again.
pub(crate) const VERSION: u32 = 1;

/// Writes the canonical encoding into SHA-256.
#[derive(Clone)]
pub(super) struct KeyHasher(Sha256);

impl KeyHasher {
    /// Starts a key of `kind`; keys of different kinds never meet.
    pub(super) fn new(kind: &str) -> Self {
        let mut hasher = Self(Sha256::new());
        hasher.text("kiln step");
        hasher.number(u64::from(VERSION));
        hasher.text(kind);
        hasher
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(number.to_le_bytes());
        self
    }

    pub(super) fn flag(&mut self, flag: bool) -> &mut Self {
        self.0.update([u8::from(flag)]);
        self
    }

    pub(super) fn digest(&mut self, digest: &Digest) -> &mut Self {
        self.0.update(digest.as_bytes());
        self
    }

    pub(super) fn contents(&mut self, contents: &ContentsDigest) -> &mut Self {
        self.digest(&contents.0)
    }

    pub(super) fn texts<S: AsRef<str>>(&mut self, texts: &[S]) -> &mut Self {
        self.number(texts.len() as u64);
        for text in texts {
            self.text(text.as_ref());
        }
        self
    }

    /// A root file system: the contents of its layers in order, not how they came to be.
    pub(super) fn snapshot(&mut self, snapshot: &Snapshot) -> &mut Self {
        self.number(snapshot.len() as u64);
        for Layer { contents, .. } in snapshot.layers() {
            self.contents(&contents);
        }
        self
    }

    fn platform(&mut self, platform: &Platform) -> &mut Self {
        self.text(&platform.os).text(&platform.architecture).text(&platform.variant)
    }

    pub(super) fn finish(self) -> StepKey {
        StepKey(Digest::from_bytes(self.0.finalize().into()))
    }
}

/// What a mounted input is, for the key.
#[derive(Clone, Debug)]
pub(super) enum MountContents {
    /// A root file system.
    Snapshot(Snapshot),
    /// The selected part of a tree.
    Selection(ContentsDigest),
}

/// The key of a process: the user's name is enough, since the files that say what it means are in `root`.
/// `mounted` are the inputs of bind mounts and seeds in the order of `exec.mounts`.
pub(super) fn exec_key(
    exec: &Exec,
    platform: &Platform,
    root: &Snapshot,
    mounted: &[MountContents],
) -> StepKey {
    // Named one by one, so that a new field cannot be forgotten here.
    let Exec {
        argv,
        env,
        build_args: _,
        unkeyed_env: _,
        cwd,
        user,
        mounts,
        network,
        insecure,
        capabilities,
        security_options,
        hostname,
        devices,
        host_devices,
        groups,
        volumes,
        extra_hosts,
        shm_bytes,
        ulimits,
        scripts,
    } = exec;
    let mut key = KeyHasher::new("exec");
    key.platform(platform).texts(argv).texts(env).text(cwd).text(user).text(hostname);
    key.number(match network {
        NetworkMode::Default => 0,
        NetworkMode::None => 1,
        NetworkMode::Host => 2,
    });
    key.flag(*insecure);
    key.number(extra_hosts.len() as u64);
    for (name, _address) in extra_hosts {
        key.text(name);
    }
    key.flag(shm_bytes.is_some()).number(shm_bytes.unwrap_or(0));
    key.number(ulimits.len() as u64);
    for (name, soft, hard) in ulimits {
        key.text(name).number(*soft).number(*hard);
    }
    key.number(scripts.len() as u64);
    for (name, body) in scripts {
        key.text(name).text(body);
    }
    key.number(mounts.len() as u64);
    for mount in mounts {
        mount_key(&mut key, mount);
    }
    key.snapshot(root);
    key.number(mounted.len() as u64);
    for contents in mounted {
        match contents {
            MountContents::Snapshot(snapshot) => key.number(0).snapshot(snapshot),
            MountContents::Selection(contents) => key.number(1).contents(contents),
        };
    }
    // Last of all and only where there are some, so that all other keys are what they were.
    if !devices.is_empty() {
        key.text("devices").number(devices.len() as u64);
        for device in devices {
            key.text(&device.wanted.name).texts(&device.found);
        }
    }
    let with_options = || mounts.iter().enumerate().filter(|(_, mount)| mount.no_exec || mount.of_user);
    if with_options().next().is_some() {
        key.text("mount options").number(with_options().count() as u64);
        for (index, mount) in with_options() {
            key.number(index as u64).flag(mount.no_exec).flag(mount.of_user);
        }
    }
    if !volumes.is_empty() {
        key.text("volumes").number(volumes.len() as u64);
        for Volume { source, target, access, no_exec, of_user } in volumes {
            let access = match access {
                VolumeAccess::ReadOnly => 0,
                VolumeAccess::Writable => 1,
                VolumeAccess::Overlay => 2,
            };
            let options = u64::from(*no_exec) << 4 | u64::from(*of_user) << 5;
            key.text(&source.to_string_lossy()).text(target).number(access | options);
        }
    }
    if !host_devices.is_empty() {
        key.text("host devices").number(host_devices.len() as u64);
        for HostDevice { host, target } in host_devices {
            key.text(&host.to_string_lossy()).text(&target.to_string_lossy());
        }
    }
    match groups {
        ExtraGroups::Named(names) if names.is_empty() => {}
        ExtraGroups::Named(names) => _ = key.text("groups").texts(names),
        ExtraGroups::Kept => _ = key.text("kept groups"),
    }
    let SecurityOptions { unfiltered, no_new_privileges } = *security_options;
    if unfiltered || no_new_privileges {
        key.text("security options").flag(unfiltered).flag(no_new_privileges);
    }
    if capabilities.bits() != Capabilities::default().bits() {
        key.text("capabilities").number(capabilities.bits());
    }
    if *insecure && capabilities.withheld_bits() != 0 {
        key.text("withheld capabilities").number(capabilities.withheld_bits());
    }
    key.finish()
}

fn mount_key(key: &mut KeyHasher, mount: &ExecMount) {
    key.text(&mount.target);
    let owner = |key: &mut KeyHasher, mode: u32, uid: u32, gid: u32| {
        key.number(u64::from(mode)).number(u64::from(uid)).number(u64::from(gid));
    };
    match &mount.kind {
        ExecMountKind::Bind { input: _, source, writable } => {
            key.number(0).text(source).flag(*writable);
        }
        ExecMountKind::Cache { id: _, seed, source, sharing, read_only, mode, uid, gid } => {
            let (CacheSharing::Shared | CacheSharing::Private | CacheSharing::Locked) = sharing;
            key.number(1).flag(*read_only).flag(seed.is_some());
            // As it was when only a seed's counted.
            key.text(if seed.is_none() && source == "/" { "" } else { source });
            owner(key, *mode, *uid, *gid);
        }
        ExecMountKind::Tmpfs { size, read_only } => {
            key.number(2).flag(size.is_some()).number(size.unwrap_or(0)).flag(*read_only);
        }
        ExecMountKind::Secret { id, env, required, mode, uid, gid } => {
            key.number(3).text(id).flag(env.is_some()).text(env.as_deref().unwrap_or("")).flag(*required);
            owner(key, *mode, *uid, *gid);
        }
        ExecMountKind::Ssh { id, required, mode, uid, gid } => {
            key.number(4).text(id).flag(*required);
            owner(key, *mode, *uid, *gid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec() -> Exec {
        Exec {
            argv: vec!["/bin/sh".into(), "-c".into(), "make".into()],
            env: vec!["PATH=/bin".into()],
            build_args: Vec::new(),
            unkeyed_env: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            mounts: Vec::new(),
            network: NetworkMode::Default,
            insecure: false,
            capabilities: Capabilities::default(),
            security_options: SecurityOptions::default(),
            hostname: "buildkitsandbox".into(),
            devices: Vec::new(),
            host_devices: Vec::new(),
            groups: ExtraGroups::default(),
            volumes: Vec::new(),
            extra_hosts: Vec::new(),
            shm_bytes: None,
            ulimits: Vec::new(),
            scripts: Vec::new(),
        }
    }

    fn key(exec: &Exec) -> StepKey {
        let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: String::new() };
        exec_key(exec, &platform, &Snapshot::default(), &[])
    }

    #[test]
    fn proxies_and_host_addresses_are_not_in_the_key() {
        let plain = exec();
        let mut other = exec();
        other.unkeyed_env.push("HTTP_PROXY=http://proxy".into());
        assert_eq!(key(&plain), key(&other));
        let host = |address: [u8; 4]| {
            let mut exec = exec();
            exec.extra_hosts.push(("db".into(), kiln_sandbox::HostAddress::Ip(address.into())));
            exec
        };
        assert_eq!(key(&host([1, 2, 3, 4])), key(&host([4, 3, 2, 1])));
        assert_ne!(key(&plain), key(&host([1, 2, 3, 4])));
    }

    #[test]
    fn a_step_with_a_device_is_another_than_one_that_went_without_it() {
        let with = |found: &[&str]| {
            let wanted = kiln_parser::Device { name: "v.com/c".into(), required: false };
            let found = found.iter().map(|&name| name.to_owned()).collect();
            Exec { devices: vec![crate::graph::ExecDevice { wanted, found }], ..exec() }
        };
        let keys = [key(&exec()), key(&with(&[])), key(&with(&["v.com/c=0"])), key(&with(&["v.com/c=1"]))];
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), keys.len());
    }

    #[test]
    fn what_every_step_may_and_sees_is_in_the_key() {
        let capabilities = |added: &[String], dropped: &[String]| Exec {
            capabilities: Capabilities::new(added, dropped).unwrap(),
            ..exec()
        };
        let volume = |access| Exec {
            volumes: vec![Volume {
                source: "/srv".into(),
                target: "/srv".into(),
                access,
                no_exec: false,
                of_user: false,
            }],
            ..exec()
        };
        let (kill, admin) = (["kill".to_owned()], ["sys_admin".to_owned()]);
        let keys = [
            key(&exec()),
            key(&capabilities(&[], &kill)),
            key(&capabilities(&admin, &[])),
            key(&volume(VolumeAccess::ReadOnly)),
            key(&volume(VolumeAccess::Writable)),
            key(&Exec { groups: ExtraGroups::Named(vec!["4".into()]), ..exec() }),
            key(&Exec { groups: ExtraGroups::Kept, ..exec() }),
            key(&Exec {
                host_devices: vec![HostDevice { host: "/dev/fuse".into(), target: "/dev/fuse".into() }],
                ..exec()
            }),
            key(&Exec { insecure: true, ..exec() }),
            key(&Exec { insecure: true, ..capabilities(&[], &admin) }),
        ];
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), keys.len());
        // What asks for what there is anyway is the same step.
        assert_eq!(key(&exec()), key(&capabilities(&kill, &admin)));
    }

    #[test]
    fn words_do_not_run_into_each_other() {
        let mut one = exec();
        one.argv = vec!["a".into(), "bc".into()];
        let mut two = exec();
        two.argv = vec!["ab".into(), "c".into()];
        let mut three = exec();
        three.argv = vec!["a".into()];
        three.env.insert(0, "bc".into());
        assert_ne!(key(&one), key(&two));
        assert_ne!(key(&one), key(&three));
    }

    #[test]
    fn id_and_sharing_of_a_cache_mount_are_not_in_the_key_but_its_target_is() {
        let cache = |id: &str, sharing, target: &str| {
            let mut exec = exec();
            exec.mounts.push(ExecMount {
                target: target.into(),
                kind: ExecMountKind::Cache {
                    id: id.into(),
                    seed: None,
                    source: "/".into(),
                    sharing,
                    read_only: false,
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                },
                no_exec: false,
                of_user: false,
            });
            exec
        };
        let one = key(&cache("a", CacheSharing::Shared, "/c"));
        assert_eq!(one, key(&cache("b", CacheSharing::Locked, "/c")));
        assert_ne!(one, key(&cache("a", CacheSharing::Shared, "/d")));
        let with = |change: fn(&mut ExecMount)| {
            let mut exec = cache("a", CacheSharing::Shared, "/c");
            change(&mut exec.mounts[0]);
            key(&exec)
        };
        let (no_exec, of_user) = (with(|mount| mount.no_exec = true), with(|mount| mount.of_user = true));
        assert!(one != no_exec && one != of_user && no_exec != of_user);
    }
}
