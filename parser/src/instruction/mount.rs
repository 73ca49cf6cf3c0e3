//! `RUN --mount=` (FEATURES RN16–RN32): one line of comma-separated `key=value` fields, BuildKit's and buildah's.

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while1};
use nom::character::complete::char;
use nom::combinator::{all_consuming, map, value};
use nom::multi::{fold_many0, separated_list1};
use nom::sequence::delimited;
use nom::{IResult, Parser};

use crate::suggest::closest;
use crate::{CacheSharing, Mount, MountKind, MountProblem, boolean};

const KEYS: [&str; 18] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
];

/// What buildah has beyond BuildKit, where a word alone is long enough to be meant.
const KEYS_OF_BUILDAH: [&str; 5] = ["bind-propagation", "nodev", "noexec", "nosuid", "relabel"];

/// Where mounts made inside go: every mount of a step is private to it, and these ask for no more.
const INWARD: [&str; 6] = ["private", "rprivate", "slave", "rslave", "unbindable", "runbindable"];

const KINDS: [&str; 5] = ["bind", "cache", "secret", "ssh", "tmpfs"];

/// Parses a mount as it is written. A value with a variable in it is checked no further than the text allows.
pub(crate) fn parse(text: &str) -> Result<Mount, MountProblem> {
    Options::default().read::<MountProblem>(text, &mut |value| Ok(value.to_owned()))?.mount(text)
}

/// Parses a mount after expanding each value.
pub(crate) fn parse_expanded<E: From<MountProblem>>(
    text: &str,
    expand: &mut dyn FnMut(&str) -> Result<String, E>,
) -> Result<Mount, E> {
    Ok(Options { is_expanded: true, ..Options::default() }.read(text, expand)?.mount(text)?)
}

/// The fields as read, before they are judged together.
#[derive(Debug, Default)]
struct Options {
    is_expanded: bool,
    kind: Option<String>,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: Option<bool>,
    required: Option<bool>,
    size: Option<String>,
    id: Option<String>,
    env: Option<String>,
    sharing: Option<String>,
    mode: Option<String>,
    uid: Option<String>,
    gid: Option<String>,
    no_exec: Option<bool>,
    of_user: Option<bool>,
    /// Keys that only buildah has, as they are given.
    of_buildah: Vec<&'static str>,
}

impl Options {
    fn read<E: From<MountProblem>>(
        mut self,
        text: &str,
        expand: &mut dyn FnMut(&str) -> Result<String, E>,
    ) -> Result<Self, E> {
        let fields = csv(text).ok_or_else(|| MountProblem::NotCsv { text: text.to_owned() })?;
        for field in &fields {
            match field.split_once('=') {
                None => self.switch(field)?,
                Some((key, "")) if key.eq_ignore_ascii_case("from") => {}
                // Stages are found before anything is expanded (FEATURES VX16).
                Some((key, from)) if key.eq_ignore_ascii_case("from") && from.contains('$') => {
                    return Err(MountProblem::FromVariable.into());
                }
                Some((key, value)) => self.set(key, expand(value)?, field)?,
            }
        }
        Ok(self)
    }

    /// Takes a field without a value.
    fn switch(&mut self, field: &str) -> Result<(), MountProblem> {
        match field.to_lowercase().as_str() {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => {
                self.only_for("required", &["secret", "ssh"])?;
                self.required = Some(true);
            }
            other if self.takes_of_buildah(other, None)? => {}
            _ => return Err(MountProblem::NotPair { field: field.to_owned() }),
        }
        Ok(())
    }

    /// Takes what only buildah has; returns whether it was that.
    fn takes_of_buildah(&mut self, key: &str, value: Option<&str>) -> Result<bool, MountProblem> {
        let key = match (key, value) {
            ("noexec", value) => {
                self.no_exec = self.switched("noexec", value)?.or(self.no_exec);
                "noexec"
            }
            ("u" | "chown", value) => {
                self.of_user = self.switched("U", value)?.or(self.of_user);
                "U"
            }
            // These hold for every mount.
            ("nosuid", None) => "nosuid",
            ("nodev", None) => "nodev",
            // Nothing is labelled.
            ("z", None) => "z",
            ("relabel", Some("shared" | "private")) => "relabel",
            ("relabel", Some(value)) if self.is_open(value) => "relabel",
            ("relabel", Some(value)) => {
                return Err(MountProblem::InvalidValue { key: "relabel", value: value.to_owned() });
            }
            ("bind-propagation", Some(value)) | (value, None)
                if INWARD.contains(&value) || key == "bind-propagation" && self.is_open(value) =>
            {
                "bind-propagation"
            }
            ("bind-propagation", Some(value @ ("shared" | "rshared")))
            | (value @ ("shared" | "rshared"), None) => {
                return Err(MountProblem::Unsupported {
                    option: value.to_owned(),
                    reason: "what a step mounts is seen by that step alone",
                });
            }
            ("bind-propagation", Some(value)) => {
                return Err(MountProblem::InvalidValue { key: "bind-propagation", value: value.to_owned() });
            }
            // As in buildah, which has followed the link by then; and nothing that is shown has mounts of its own.
            ("no-dereference", None) => "no-dereference",
            ("bind-nonrecursive", None) => "bind-nonrecursive",
            ("consistency", Some(_)) => "consistency",
            _ => return Ok(false),
        };
        self.of_buildah.push(key);
        Ok(true)
    }

    /// A switch alone is true.
    fn switched(&self, key: &'static str, value: Option<&str>) -> Result<Option<bool>, MountProblem> {
        value.map_or(Ok(Some(true)), |value| self.boolean(key, value))
    }

    /// Refuses a key that BuildKit judges by the type read so far: a mount is `bind` until its type is read.
    fn only_for(&self, key: &'static str, kinds: &[&str]) -> Result<(), MountProblem> {
        let word = self.kind.as_deref().unwrap_or("bind");
        if self.is_open(word) || kinds.contains(&word) {
            return Ok(());
        }
        let kind = KINDS.into_iter().find(|kind| *kind == word).unwrap_or("bind");
        Err(MountProblem::KeyNotForType { key, kind })
    }

    fn set(&mut self, key: &str, value: String, field: &str) -> Result<(), MountProblem> {
        match key.to_lowercase().as_str() {
            "type" => {
                let kind = value.to_lowercase();
                if !self.is_open(&kind) && !KINDS.contains(&kind.as_str()) {
                    let closest = closest(&kind, KINDS);
                    return Err(MountProblem::UnknownType { kind, closest });
                }
                self.kind = Some(kind);
            }
            "from" => self.from = Some(value),
            "source" | "src" => self.source = Some(value),
            "target" | "dst" | "destination" => self.target = Some(value),
            "readonly" => self.read_only = self.boolean("readonly", &value)?.or(self.read_only),
            "ro" => self.read_only = self.boolean("ro", &value)?.or(self.read_only),
            "readwrite" => self.set_writable("readwrite", &value)?,
            "rw" => self.set_writable("rw", &value)?,
            "required" => {
                self.only_for("required", &["secret", "ssh"])?;
                self.required = self.boolean("required", &value)?.or(self.required);
            }
            "size" => {
                self.only_for("size", &["tmpfs"])?;
                self.size = Some(value);
            }
            "id" => self.id = Some(value),
            "env" => self.env = Some(value),
            "sharing" => self.sharing = Some(value.to_lowercase()),
            "mode" => self.mode = Some(value),
            "uid" => self.uid = Some(value),
            "gid" => self.gid = Some(value),
            other if self.takes_of_buildah(other, Some(&value))? => {}
            other => {
                return Err(MountProblem::UnknownKey {
                    key: key.to_owned(),
                    field: field.to_owned(),
                    closest: closest(other, KEYS.into_iter().chain(["env"]).chain(KEYS_OF_BUILDAH)),
                });
            }
        }
        Ok(())
    }

    fn set_writable(&mut self, key: &'static str, value: &str) -> Result<(), MountProblem> {
        self.read_only = self.boolean(key, value)?.map(|writable| !writable).or(self.read_only);
        Ok(())
    }

    fn mount(self, text: &str) -> Result<Mount, MountProblem> {
        let word = self.kind.as_deref().unwrap_or("bind");
        // An unexpanded type says nothing yet; the expanded text is parsed again.
        let kind = KINDS.into_iter().find(|kind| *kind == word).unwrap_or("bind");
        if !self.is_open(self.kind.as_deref().unwrap_or("")) {
            self.check_keys(kind)?;
        }
        let target = self.target.clone().filter(|target| !target.is_empty());
        if !matches!(kind, "secret" | "ssh") && target.as_deref().is_some_and(is_root) {
            return Err(MountProblem::InvalidTarget { target: "/".to_owned() });
        }
        let (no_exec, of_user) = (self.no_exec == Some(true), self.of_user == Some(true));
        let from = self.from.clone();
        Ok(Mount { kind: self.kind(kind)?, from, target, no_exec, of_user, written: text.to_owned() })
    }

    fn kind(self, kind: &str) -> Result<MountKind, MountProblem> {
        let mode = self.number("mode", &self.mode, 8)?;
        let uid = self.number("uid", &self.uid, 10)?;
        let gid = self.number("gid", &self.gid, 10)?;
        let required = self.required.unwrap_or(false);
        Ok(match kind {
            "cache" => MountKind::Cache {
                sharing: self.sharing()?,
                id: self.id,
                source: self.source.unwrap_or_else(|| "/".to_owned()),
                read_only: self.read_only.unwrap_or(false),
                mode,
                uid,
                gid,
            },
            "tmpfs" => MountKind::Tmpfs { size: self.size()?, read_only: self.read_only.unwrap_or(false) },
            "secret" => MountKind::Secret {
                id: self.id.filter(|id| !id.is_empty()).or(self.source),
                env: self.env,
                required,
                mode,
                uid,
                gid,
            },
            "ssh" => MountKind::Ssh { id: self.id, required, mode, uid, gid },
            _ => MountKind::Bind {
                source: self.source.unwrap_or_else(|| "/".to_owned()),
                writable: self.read_only == Some(false),
            },
        })
    }

    /// Refuses keys that the type does not have.
    fn check_keys(&self, kind: &'static str) -> Result<(), MountProblem> {
        let is_file = matches!(kind, "secret" | "ssh");
        let rules = [
            ("mode", self.mode.is_some(), is_file || kind == "cache"),
            ("uid", self.uid.is_some(), is_file || kind == "cache"),
            ("gid", self.gid.is_some(), is_file || kind == "cache"),
            ("from", self.from.is_some(), kind != "secret"),
            ("sharing", self.sharing.is_some(), kind == "cache"),
            ("source", self.source.is_some(), kind != "ssh"),
        ];
        if let Some((key, ..)) = rules.into_iter().find(|(_, given, allowed)| *given && !allowed) {
            return Err(MountProblem::KeyNotForType { key, kind });
        }
        let refused = |key: &&str| match kind {
            "bind" | "cache" => false,
            "tmpfs" => !matches!(*key, "noexec" | "nosuid" | "nodev" | "U"),
            _ => true,
        };
        if let Some(key) = self.of_buildah.iter().copied().find(refused) {
            return Err(MountProblem::KeyNotForType { key, kind });
        }
        if self.of_user == Some(true) && (self.uid.is_some() || self.gid.is_some()) {
            let reason = "uid and gid name the owner already";
            return Err(MountProblem::Unsupported { option: "U".to_owned(), reason });
        }
        if kind == "secret" {
            let is_given = |word: &Option<String>| word.as_deref().is_some_and(|word| !word.is_empty());
            if is_given(&self.id) && is_given(&self.source) {
                return Err(MountProblem::SecretIdTwice);
            }
            if ![&self.id, &self.source, &self.target].into_iter().any(is_given) {
                return Err(MountProblem::SecretWithoutId);
            }
        }
        Ok(())
    }

    /// Whether `value` still waits for its variables.
    fn is_open(&self, value: &str) -> bool {
        !self.is_expanded && value.contains('$')
    }

    fn boolean(&self, key: &'static str, value: &str) -> Result<Option<bool>, MountProblem> {
        match boolean(value) {
            None if !self.is_open(value) => Err(MountProblem::InvalidValue { key, value: value.to_owned() }),
            known => Ok(known),
        }
    }

    fn number(
        &self,
        key: &'static str,
        value: &Option<String>,
        radix: u32,
    ) -> Result<Option<u32>, MountProblem> {
        match value {
            Some(value) if !self.is_open(value) => match u32::from_str_radix(value, radix) {
                Ok(number) if !value.starts_with('+') => Ok(Some(number)),
                _ => Err(MountProblem::InvalidValue { key, value: value.clone() }),
            },
            _ => Ok(None),
        }
    }

    fn sharing(&self) -> Result<CacheSharing, MountProblem> {
        match self.sharing.as_deref() {
            None | Some("shared") => Ok(CacheSharing::Shared),
            Some("private") => Ok(CacheSharing::Private),
            Some("locked") => Ok(CacheSharing::Locked),
            Some(open) if self.is_open(open) => Ok(CacheSharing::Shared),
            Some(other) => Err(MountProblem::UnknownSharing { value: other.to_owned() }),
        }
    }

    fn size(&self) -> Result<Option<u64>, MountProblem> {
        match self.size.as_deref() {
            Some(text) if !self.is_open(text) => match bytes(text) {
                Some(size) => Ok(Some(size)),
                None => Err(MountProblem::InvalidValue { key: "size", value: text.to_owned() }),
            },
            _ => Ok(None),
        }
    }
}

fn is_root(target: &str) -> bool {
    target.starts_with('/') && target.split('/').all(|part| matches!(part, "" | "." | ".."))
}

/// Reads a size with a binary unit: `64m`, `1.5GiB`, `4096`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|ch: char| !ch.is_ascii_digit() && ch != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let number: f64 = number.parse().ok()?;
    let power = match unit.trim_start().to_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let size = number * (1u64 << power) as f64;
    // Above 2^63 no kernel takes it, and the conversion would clip in silence.
    (size < i64::MAX as f64).then_some(size as u64)
}

/// The fields of one line of CSV; `None` for what is none.
pub(super) fn csv(text: &str) -> Option<Vec<String>> {
    all_consuming(fields).parse(text).ok().map(|(_, fields)| fields)
}

/// One line of CSV (RFC 4180): a field with a comma is quoted as a whole, `""` inside quotes is a quote.
fn fields(text: &str) -> IResult<&str, Vec<String>> {
    let part = alt((map(take_while1(|ch| ch != '"'), str::to_owned), value("\"".to_owned(), tag("\"\""))));
    let inner = fold_many0(part, String::new, |mut text, part| {
        text.push_str(&part);
        text
    });
    let quoted = delimited(char('"'), inner, char('"'));
    let plain = map(take_while(|ch| ch != ',' && ch != '"'), str::to_owned);
    separated_list1(char(','), alt((quoted, plain))).parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_mount_without_a_type_binds_the_context_read_only() {
        let mount = parse("target=/ctx").unwrap();
        assert_eq!(mount.target.as_deref(), Some("/ctx"));
        assert_eq!((mount.from, mount.kind), (None, MountKind::Bind { source: "/".into(), writable: false }));
    }

    #[test]
    fn keys_are_case_insensitive_and_fields_may_be_quoted() {
        let mount = parse("TYPE=secret,\"id=a,\"\"b\",Required").unwrap();
        let MountKind::Secret { id, required, .. } = mount.kind else { unreachable!() };
        assert_eq!((id.as_deref(), required), (Some("a,\"b"), true));
    }

    #[test]
    fn values_with_variables_wait_for_the_expansion() {
        let text = "type=cache,id=${ID},target=$T,mode=$M,sharing=${S},ro=$R";
        let open = parse(text).unwrap();
        assert_eq!(open.target.as_deref(), Some("$T"));
        let values = |word: &str| -> Result<String, MountProblem> {
            Ok(match word {
                "${ID}" => "pip",
                "$T" => "/t",
                "$M" => "0700",
                "${S}" => "locked",
                "$R" => "true",
                other => other,
            }
            .to_owned())
        };
        let mount = open.expanded(values).unwrap();
        assert_eq!(mount.target.as_deref(), Some("/t"));
        let MountKind::Cache { id, sharing, read_only, mode, .. } = mount.kind else { unreachable!() };
        assert_eq!(
            (id.as_deref(), sharing, read_only, mode),
            (Some("pip"), CacheSharing::Locked, true, Some(0o700))
        );
    }

    #[test]
    fn wrong_mounts_are_named_as_buildkit_names_them() {
        assert_eq!(problem("type=bind,target"), "invalid field 'target' must be a key=value pair");
        assert_eq!(problem("type=volume,target=/x"), "unsupported mount type \"volume\"");
        assert_eq!(problem("target=/x,colour=red"), "unexpected key 'colour' in 'colour=red'");
        assert_eq!(problem("type=cache,target=/.."), "invalid mount target \"/\"");
        assert_eq!(problem("type=cache,target=/c,sharing=some"), "unsupported sharing value \"some\"");
        assert_eq!(problem("target=/c,size=1g"), "unexpected key 'size' for mount type 'bind'");
        assert_eq!(
            problem("target=/c,from=$x"),
            "'from' doesn't support variable expansion, define alias stage instead"
        );
        assert_eq!(
            problem("target=/c,\"a\"b"),
            "the mount options are not comma-separated fields: target=/c,\"a\"b"
        );
    }

    #[test]
    fn keys_are_judged_from_left_to_right() {
        assert_eq!(problem("required,type=secret,id=a"), "unexpected key 'required' for mount type 'bind'");
        assert_eq!(problem("target=/t,size=1m,type=tmpfs"), "unexpected key 'size' for mount type 'bind'");
        assert_eq!(problem("type=what,colour=red"), "unsupported mount type \"what\"");
        assert_eq!(problem("type=tmpfs,target=/t,rw=maybe"), "invalid value for rw: maybe");
        assert!(parse("type=$T,required,target=/t").is_ok());
        let mount = parse("type=cache,target=/t,sharing=LOCKED").unwrap();
        assert!(matches!(mount.kind, MountKind::Cache { sharing: CacheSharing::Locked, .. }));
        // Without a target it is the working directory, which is known later.
        assert_eq!(parse("type=bind,source=x").unwrap().target, None);
    }

    #[test]
    fn what_only_buildah_has_is_taken_where_kiln_can_do_it() {
        let mount = parse("type=cache,target=/c,U,noexec,nosuid,nodev,Z,private").unwrap();
        assert!(mount.no_exec && mount.of_user);
        let mount = parse("target=/c,z,relabel=shared,bind-propagation=rslave,noexec=false,nodev").unwrap();
        assert!(!mount.no_exec && !mount.of_user);
        assert!(parse("target=/c,U,no-dereference,bind-nonrecursive,consistency=cached").unwrap().of_user);
        assert!(parse("noexec,U,type=tmpfs,target=/t").unwrap().of_user);
        assert!(parse("type=$t,target=/t,bind-propagation=$p,relabel=$r,chown=$u").is_ok());
        for (text, expected) in [
            ("type=secret,id=s,noexec", "unexpected key 'noexec' for mount type 'secret'"),
            ("type=ssh,U", "unexpected key 'U' for mount type 'ssh'"),
            ("type=tmpfs,target=/t,z", "unexpected key 'z' for mount type 'tmpfs'"),
            ("target=/t,relabel=some", "invalid value for relabel: some"),
            ("target=/t,relabel", "invalid field 'relabel' must be a key=value pair"),
            ("target=/t,bind-propagation=out", "invalid value for bind-propagation: out"),
            ("target=/t,suid", "invalid field 'suid' must be a key=value pair"),
            ("target=/t,nosuid=false", "unexpected key 'nosuid' in 'nosuid=false'"),
            (
                "type=cache,target=/t,U=true,uid=5",
                "mount option 'U' is not supported: uid and gid name the owner already",
            ),
            (
                "target=/t,rshared",
                "mount option 'rshared' is not supported: what a step mounts is seen by that step alone",
            ),
            (
                "target=/t,bind-propagation=shared",
                "mount option 'shared' is not supported: what a step mounts is seen by that step alone",
            ),
            ("type=tmpfs,target=/t,no-dereference", "unexpected key 'no-dereference' for mount type 'tmpfs'"),
            ("target=/t,no-dereference=true", "unexpected key 'no-dereference' in 'no-dereference=true'"),
        ] {
            assert_eq!(problem(text), expected);
        }
    }

    #[test]
    fn a_secret_s_empty_words_count_as_none() {
        for text in ["type=secret,id=,source=a", "type=secret,id=a,source=", "type=secret,target=/a,id="] {
            let MountKind::Secret { id, .. } = parse(text).unwrap().kind else { unreachable!() };
            assert!(id.is_none_or(|id| id == "a"), "{text}");
        }
        assert_eq!(
            problem("type=secret,id=,target="),
            "invalid secret mount. one of source, target required"
        );
        assert_eq!(problem("type=secret,id=a,source=b"), "both source and id can't be set");
    }

    #[test]
    fn sizes_take_binary_units() {
        assert_eq!(bytes("4194304"), Some(4 << 20));
        assert_eq!(bytes("64m"), Some(64 << 20));
        assert_eq!(bytes("1.5GiB"), Some(3 << 29));
        assert_eq!(bytes("1x"), None);
        assert_eq!(bytes("99999999999p"), None);
    }
}
