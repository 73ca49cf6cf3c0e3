//! Users and groups as an image's own files name them; no NSS, no host look-up.

/// A process's user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups: the group itself and those of the image's group file.
    pub groups: Vec<u32>,
    /// Home directory from passwd, `/` where there is none.
    pub home: String,
}

/// The image has no such user or group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not in passwd.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// Not in group.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A number that no id can have.
    #[error("{0}: uids and gids must be in range 0-2147483647")]
    OutOfRange(String),
}

/// Resolves `user[:group]` (names or numbers; numbers are never looked up as names; empty is root).
///
/// Without `:group` the primary group is passwd's (0 where the user is not listed) and the supplementary groups are
/// those that list the user; with it, that group alone. The group is among the supplementary ones as well: a program that
/// changes to another group would else lose what is denied to the group. The caller limits the files' sizes.
///
/// # Errors
/// See [`IdentityError`].
pub fn resolve_user(text: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, IdentityError> {
    let (user_text, group_text) = match text.split_once(':') {
        Some((user, group)) => (user, (!group.is_empty()).then_some(group)),
        None => (text, None),
    };
    let user_text = if user_text.is_empty() { "0" } else { user_text };

    let number = parse_id(user_text)?;
    let entry = lines(passwd).filter_map(PasswdEntry::parse).find(|entry| match number {
        Some(uid) => entry.uid == uid,
        None => entry.name == user_text.as_bytes(),
    });
    let (uid, primary) = match (&entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => return Err(IdentityError::UnknownUser(user_text.to_owned())),
    };
    let home = entry
        .as_ref()
        .filter(|entry| !entry.home.is_empty())
        .map_or_else(|| "/".to_owned(), |entry| String::from_utf8_lossy(entry.home).into_owned());

    let Some(group_text) = group_text else {
        let name = entry.as_ref().map(|entry| entry.name);
        let mut groups: Vec<u32> = lines(group)
            .filter_map(GroupEntry::parse)
            .filter(|group| name.is_some_and(|name| group.has_member(name)))
            .map(|group| group.gid)
            .collect();
        groups.sort_unstable();
        groups.dedup();
        return Ok(Identity { uid, gid: primary, groups: with_own(primary, groups), home });
    };
    let gid = match parse_id(group_text)? {
        Some(gid) => gid,
        None => {
            lines(group)
                .filter_map(GroupEntry::parse)
                .find(|group| group.name == group_text.as_bytes())
                .ok_or_else(|| IdentityError::UnknownGroup(group_text.to_owned()))?
                .gid
        }
    };
    Ok(Identity { uid, gid, groups: vec![gid], home })
}

fn with_own(gid: u32, mut groups: Vec<u32>) -> Vec<u32> {
    if !groups.contains(&gid) {
        groups.insert(0, gid);
    }
    groups
}

/// The highest id that may be named, as the other builders have it: 32-bit programs read ids as signed.
const MAX_ID: u32 = i32::MAX as u32;

/// The number that `text` is; `None` when it is a name.
fn parse_id(text: &str) -> Result<Option<u32>, IdentityError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.strip_prefix('+').unwrap_or(text).parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(IdentityError::OutOfRange(text.to_owned())),
    }
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

struct PasswdEntry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a [u8]) -> Option<PasswdEntry<'a>> {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next()?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(PasswdEntry { name, uid, gid, home })
    }
}

struct GroupEntry<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a [u8]) -> Option<GroupEntry<'a>> {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next()?;
        let gid = number(fields.nth(1)?)?;
        Some(GroupEntry { name, gid, members: fields.next().unwrap_or_default() })
    }

    fn has_member(&self, name: &[u8]) -> bool {
        self.members.split(|&byte| byte == b',').any(|member| member == name)
    }
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok().filter(|&id| id <= MAX_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n1000:x:0:0:trap:/trap:/bin/sh\n\
        # comment\nbroken line\nweb:x:33:33:web:/var/www:/bin/false\nhomeless:x:7:7:::\n";
    const GROUP: &[u8] =
        b"root:x:0:\nweb:x:33:\nadm:x:4:syslog,web\ntty:x:5:web\ndouble:x:5:web\n44:x:9:web\n";

    fn resolve(text: &str) -> Result<Identity, IdentityError> {
        resolve_user(text, PASSWD, GROUP)
    }

    #[test]
    fn nothing_is_root() {
        let root = resolve("").unwrap();
        assert_eq!((root.uid, root.gid, root.home.as_str()), (0, 0, "/root"));
    }

    #[test]
    fn a_name_has_passwds_group_and_the_groups_that_list_it() {
        let web = resolve("web").unwrap();
        assert_eq!(web, Identity { uid: 33, gid: 33, groups: vec![33, 4, 5, 9], home: "/var/www".into() });
    }

    #[test]
    fn a_given_group_is_the_only_one() {
        let web = resolve("web:adm").unwrap();
        assert_eq!((web.gid, web.groups), (4, vec![4]));
    }

    #[test]
    fn a_number_is_never_looked_up_as_a_name() {
        let user = resolve("1000").unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (1000, 0, "/"));
        assert_eq!(resolve("web:44").unwrap().gid, 44);
    }

    #[test]
    fn a_listed_number_has_its_entrys_groups() {
        assert_eq!(resolve("33").unwrap().groups, [33, 4, 5, 9]);
    }

    #[test]
    fn unknown_names_and_impossible_numbers_are_errors() {
        assert_eq!(resolve("nobody"), Err(IdentityError::UnknownUser("nobody".into())));
        assert_eq!(resolve("web:none"), Err(IdentityError::UnknownGroup("none".into())));
        assert_eq!(resolve("4294967295"), Err(IdentityError::OutOfRange("4294967295".into())));
        assert_eq!(resolve("-1"), Err(IdentityError::OutOfRange("-1".into())));
    }

    #[test]
    fn an_empty_home_is_the_root() {
        assert_eq!(resolve("homeless").unwrap().home, "/");
    }

    #[test]
    fn without_files_numbers_still_work() {
        let user = resolve_user("5:6", b"", b"").unwrap();
        assert_eq!((user.gid, user.groups), (6, vec![6]));
    }
}
