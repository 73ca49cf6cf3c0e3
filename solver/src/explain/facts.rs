//! What a step was made of.

use std::collections::BTreeMap;

use kiln_image::{Digest, Platform};
use kiln_sandbox::Capabilities;
use serde::{Deserialize, Serialize};

use crate::graph::{Exec, ExecMount, ExecMountKind, ExtraGroups, NetworkMode};
use crate::solve::{KEY_VERSION, Snapshot};

/// So many files are told apart; of those behind them it is only known whether any changed.
const MAX_FILES: usize = 20_000;
/// Of a text (a command, a value) so much is kept; a heredoc may be a whole program.
const MAX_TEXT_BYTES: usize = 4 << 10;
/// More are no facts that kiln wrote.
const MAX_ENCODED_BYTES: usize = 32 << 20;
/// Hex digits of a fingerprint: 64 bits tell two versions of one file apart.
const FINGERPRINT_DIGITS: usize = 16;

/// What a step was made of: whatever is in its key, so that it can be said what changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Of the keys' meaning; steps of two versions cannot be compared.
    version: u32,
    /// The instruction as the image's history has it; of RUN the command alone.
    pub(super) instruction: String,
    pub(super) platform: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) build_args: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) env: BTreeMap<String, String>,
    /// `user`, `working directory` and the like; what is as usual is left out.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) settings: BTreeMap<String, String>,
    /// Mounts by their targets (or secret variables), in words.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) mounts: BTreeMap<String, String>,
    /// Fingerprints of what is mounted from other stages and contexts, by target.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) mounted: BTreeMap<String, String>,
    /// Fingerprints of the layers that a process starts from, bottom first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) root: Vec<String>,
    /// What a copy writes, by path; and what is mounted from a context.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) files: Vec<FileFact>,
    /// Of those that are too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) more_files: Option<String>,
}

/// A file in a step: path, source path (empty where there is none), kind, mode, uid, gid, fingerprint of the rest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileFact(
    /// Where it goes.
    pub String,
    /// Where it comes from.
    pub String,
    /// `f`, `d`, `l`, `p`, `c`, `b`, as find(1) has them; `a` for an archive to be extracted.
    pub char,
    /// Permission bits.
    pub u32,
    /// Owner.
    pub u32,
    /// Group.
    pub u32,
    /// Of bytes, link target, device, extended attributes.
    pub String,
);

impl Facts {
    /// Facts of an operation that writes `files`.
    pub(crate) fn of_files(instruction: &str, platform: &Platform, mut files: Vec<FileFact>) -> Self {
        files.sort();
        let mut facts = Self {
            version: KEY_VERSION,
            instruction: cut(instruction),
            platform: platform.to_string(),
            ..Self::default()
        };
        facts.set_files(files);
        facts
    }

    /// Facts of a process on `root`; the command's variables are split into arguments and others by `exec`.
    pub(crate) fn of_exec(exec: &Exec, platform: &Platform, root: &Snapshot) -> Self {
        let (mut build_args, mut env) = (BTreeMap::new(), BTreeMap::new());
        for variable in &exec.env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            let is_arg = exec.build_args.iter().any(|arg| arg == name);
            if is_arg { &mut build_args } else { &mut env }.insert(name.to_owned(), cut(value));
        }
        let mut settings = BTreeMap::new();
        let mut set = |name: &str, value: String| {
            if !value.is_empty() {
                settings.insert(name.to_owned(), value);
            }
        };
        set("user", exec.user.clone());
        set("working directory", exec.cwd.clone());
        set(
            "network",
            match exec.network {
                NetworkMode::Default => String::new(),
                NetworkMode::None => "none".into(),
                NetworkMode::Host => "host".into(),
            },
        );
        set("security", if exec.insecure { "insecure".into() } else { String::new() });
        if exec.capabilities != Capabilities::default() {
            set("capabilities", exec.capabilities.names().join(" "));
        }
        set(
            "system calls",
            if exec.security_options.unfiltered { "unfiltered".into() } else { String::new() },
        );
        let fixed = exec.security_options.no_new_privileges;
        set("new privileges", if fixed { "none".into() } else { String::new() });
        let volumes =
            exec.volumes.iter().map(|volume| format!("{}:{}", volume.source.display(), volume.target));
        set("volumes", volumes.collect::<Vec<_>>().join(" "));
        set("host name", exec.hostname.clone());
        let described = exec.devices.iter().flat_map(|device| device.found.clone());
        let by_path = exec.host_devices.iter().map(|device| device.target.display().to_string());
        set("devices", described.chain(by_path).collect::<Vec<_>>().join(" "));
        set(
            "groups",
            match &exec.groups {
                ExtraGroups::Named(names) => names.join(" "),
                ExtraGroups::Kept => "kept".into(),
            },
        );
        let names: Vec<&str> = exec.extra_hosts.iter().map(|(name, _)| name.as_str()).collect();
        set("added hosts", names.join(" "));
        set("size of /dev/shm", exec.shm_bytes.map(|bytes| bytes.to_string()).unwrap_or_default());
        let limits = exec.ulimits.iter().map(|(name, soft, hard)| format!("{name}={soft}:{hard}"));
        set("limits", limits.collect::<Vec<_>>().join(" "));
        for (name, body) in &exec.scripts {
            set(&format!("heredoc {name}"), fingerprint(body.as_bytes()));
        }
        Self {
            version: KEY_VERSION,
            instruction: cut(&exec.argv.join(" ")),
            platform: platform.to_string(),
            build_args,
            env,
            settings,
            mounts: exec.mounts.iter().map(mount_words).collect(),
            root: layer_fingerprints(root),
            ..Self::default()
        }
    }

    /// Adds the layers that an operation looks at.
    pub(crate) fn set_root(&mut self, root: &Snapshot) {
        self.root = layer_fingerprints(root);
    }

    /// Adds what is mounted at `target`: files that are known one by one, or all of a root file system.
    pub(crate) fn add_mounted_files(&mut self, target: &str, files: Vec<FileFact>) {
        let prefix = target.trim_end_matches('/');
        let mut all = std::mem::take(&mut self.files);
        for mut file in files {
            file.0.insert_str(0, prefix);
            all.push(file);
        }
        all.sort();
        self.set_files(all);
    }

    /// Adds what is mounted at `target`, all of a root file system.
    pub(crate) fn add_mounted_root(&mut self, target: &str, root: &Snapshot) {
        let all = layer_fingerprints(root).concat();
        self.mounted.insert(target.to_owned(), fingerprint(all.as_bytes()));
    }

    fn set_files(&mut self, mut files: Vec<FileFact>) {
        if files.len() > MAX_FILES {
            let rest = files.split_off(MAX_FILES);
            self.more_files = Some(fingerprint(&serde_json::to_vec(&rest).unwrap_or_default()));
        }
        self.files = files;
    }

    /// As a record keeps them.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What [`Facts::encode`] wrote; `None` for what another version wrote, and for nothing.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_ENCODED_BYTES {
            return None;
        }
        serde_json::from_slice(bytes).ok().filter(|facts: &Self| facts.version == KEY_VERSION)
    }
}

/// So much of a digest as tells two versions of one thing apart.
pub(crate) fn fingerprint(bytes: &[u8]) -> String {
    short(&Digest::of(bytes))
}

/// The beginning of a digest.
pub(crate) fn short(digest: &Digest) -> String {
    let mut hex = digest.hex();
    hex.truncate(FINGERPRINT_DIGITS);
    hex
}

fn layer_fingerprints(root: &Snapshot) -> Vec<String> {
    root.layers().iter().map(|layer| short(&layer.contents.0)).collect()
}

/// A text that may be long: its beginning, and what tells it from others.
fn cut(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    let end = (0..=MAX_TEXT_BYTES).rev().find(|&end| text.is_char_boundary(end)).unwrap_or_default();
    format!("{}… ({})", &text[..end], fingerprint(text.as_bytes()))
}

/// What is in the key of a mount, in the words of the Dockerfile.
fn mount_words(mount: &ExecMount) -> (String, String) {
    // What is as usual is left out.
    let owner = |usual: u32, mode: u32, uid: u32, gid: u32| {
        let mode = if mode == usual { String::new() } else { format!(",mode={mode:o}") };
        let owner = if (uid, gid) == (0, 0) { String::new() } else { format!(",uid={uid},gid={gid}") };
        mode + &owner
    };
    let mut target = mount.target.clone();
    let mut words = match &mount.kind {
        ExecMountKind::Bind { input: _, source, writable } => {
            format!("type=bind,source={source}{}", if *writable { ",rw" } else { "" })
        }
        ExecMountKind::Cache { id: _, seed, source, sharing: _, read_only, mode, uid, gid } => {
            let has_source = seed.is_some() || source != "/";
            let source = if has_source { format!(",source={source}") } else { String::new() };
            let read_only = if *read_only { ",readonly" } else { "" };
            format!("type=cache{source}{read_only}{}", owner(0o755, *mode, *uid, *gid))
        }
        ExecMountKind::Tmpfs { size, read_only } => {
            let size = size.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
            format!("type=tmpfs{size}{}", if *read_only { ",readonly" } else { "" })
        }
        ExecMountKind::Secret { id, env, required, mode, uid, gid } => {
            if let Some(name) = env {
                target = format!("{target}${name}");
            }
            let required = if *required { ",required" } else { "" };
            format!("type=secret,id={id}{required}{}", owner(0o400, *mode, *uid, *gid))
        }
        ExecMountKind::Ssh { id, required, mode, uid, gid } => {
            let required = if *required { ",required" } else { "" };
            format!("type=ssh,id={id}{required}{}", owner(0o600, *mode, *uid, *gid))
        }
    };
    for (word, given) in [(",noexec", mount.no_exec), (",U", mount.of_user)] {
        words.push_str(if given { word } else { "" });
    }
    (target, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, print: &str) -> FileFact {
        FileFact(path.into(), path.into(), 'f', 0o644, 0, 0, print.into())
    }

    #[test]
    fn facts_come_back_from_a_record_unless_keys_mean_something_else_now() {
        let platform: Platform = "linux/amd64".parse().unwrap();
        let facts = Facts::of_files("COPY . /", &platform, vec![file("/a", "1")]);
        assert_eq!(Facts::decode(&facts.encode()), Some(facts.clone()));
        let old = Facts { version: KEY_VERSION + 1, ..facts };
        assert_eq!(Facts::decode(&old.encode()), None);
        assert_eq!(Facts::decode(b""), None);
    }

    #[test]
    fn files_beyond_the_limit_have_one_fingerprint_together() {
        let platform: Platform = "linux/amd64".parse().unwrap();
        let files = |last: &str| {
            let mut files: Vec<_> = (0..MAX_FILES).map(|n| file(&format!("/{n:06}"), "1")).collect();
            files.push(file("/z", last));
            Facts::of_files("COPY . /", &platform, files)
        };
        let (one, two) = (files("1"), files("2"));
        assert_eq!(one.files, two.files);
        assert_ne!(one.more_files, two.more_files);
    }

    #[test]
    fn a_long_text_is_cut_and_still_told_from_another() {
        let long = "ä".repeat(MAX_TEXT_BYTES);
        let other = format!("{long}b");
        assert!(cut(&long).len() < MAX_TEXT_BYTES + 32);
        assert_ne!(cut(&long), cut(&other));
    }
}
