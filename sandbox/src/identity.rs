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
    /// In their place it keeps those of this process, whatever they are called inside.
    pub keeps_groups: bool,
    /// Home directory of the first line of passwd with this user id, empty if it says none; `/` without such a line.
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
/// changes to another group would else lose what is denied to the group. Where both are given, `root` is a number: an
/// image needs no files for `root:root`. The caller limits the files' sizes.
///
/// # Errors
/// See [`IdentityError`].
pub fn resolve_user(text: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, IdentityError> {
    // What stands behind a second colon is nobody's.
    let mut parts = text.split(':');
    let user_text = parts.next().filter(|user| !user.is_empty()).unwrap_or("0");
    let group_text = parts.next().filter(|group| !group.is_empty());
    let home_of = |uid| {
        let entry = lines(passwd).filter_map(PasswdEntry::parse).find(|entry| entry.uid == uid);
        entry.map_or_else(|| "/".to_owned(), |entry| String::from_utf8_lossy(entry.home).into_owned())
    };
    if let Some(group_text) = group_text
        && let (Some(uid), Some(gid)) = (parse_id_or_root(user_text)?, parse_id_or_root(group_text)?)
    {
        return Ok(Identity { uid, gid, groups: vec![gid], keeps_groups: false, home: home_of(uid) });
    }

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
    let home = home_of(uid);

    let Some(group_text) = group_text else {
        let name = entry.as_ref().map(|entry| entry.name);
        let mut groups: Vec<u32> = lines(group)
            .filter_map(GroupEntry::parse)
            .filter(|group| name.is_some_and(|name| group.has_member(name)))
            .map(|group| group.gid)
            .collect();
        groups.sort_unstable();
        groups.dedup();
        return Ok(Identity {
            uid,
            gid: primary,
            groups: with_own(primary, groups),
            keeps_groups: false,
            home,
        });
    };
    let gid = resolve_group(group_text, group)?;
    Ok(Identity { uid, gid, groups: vec![gid], keeps_groups: false, home })
}

/// The number of a group by its name in the image's file, or of a number.
///
/// # Errors
/// See [`IdentityError`].
pub fn resolve_group(text: &str, group: &[u8]) -> Result<u32, IdentityError> {
    match parse_id(text)? {
        Some(gid) => Ok(gid),
        None => lines(group)
            .filter_map(GroupEntry::parse)
            .find(|group| group.name == text.as_bytes())
            .map(|group| group.gid)
            .ok_or_else(|| IdentityError::UnknownGroup(text.to_owned())),
    }
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
    match text.parse::<i64>() {
        Ok(id) if (0..=i64::from(MAX_ID)).contains(&id) => Ok(u32::try_from(id).ok()),
        _ => Err(IdentityError::OutOfRange(text.to_owned())),
    }
}

fn parse_id_or_root(text: &str) -> Result<Option<u32>, IdentityError> {
    if text == "root" { Ok(Some(0)) } else { parse_id(text) }
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
        assert_eq!(
            web,
            Identity {
                uid: 33,
                gid: 33,
                groups: vec![33, 4, 5, 9],
                keeps_groups: false,
                home: "/var/www".into()
            }
        );
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
    fn home_is_what_the_first_line_of_the_id_says() {
        let passwd = b"first:x:5:6::/one:\nsecond:x:5:7::/two:\nshort:x:8:9\n";
        let home = |text: &str| resolve_user(text, passwd, b"").unwrap().home;
        assert_eq!(
            ["first", "second", "5", "5:0", "short", "9"].map(home),
            ["/one", "/one", "/one", "/one", "", "/"]
        );
        assert_eq!(resolve("homeless").unwrap().home, "");
    }

    #[test]
    fn a_sign_and_a_third_part_change_nothing() {
        for (text, ids) in
            [("+5:+6", (5, 6)), ("-0", (0, 0)), ("1:2:3", (1, 2)), ("::", (0, 0)), ("web:adm:x", (33, 4))]
        {
            let found = resolve(text).unwrap();
            assert_eq!((found.uid, found.gid), ids, "{text}");
        }
    }

    #[test]
    fn root_and_numbers_together_need_no_files() {
        for (text, ids) in [("root:root", (0, 0)), ("root:5", (0, 5)), ("5:root", (5, 0))] {
            let found = resolve_user(text, b"", b"").unwrap();
            assert_eq!((found.uid, found.gid, found.groups), (ids.0, ids.1, vec![ids.1]), "{text}");
        }
        assert_eq!(resolve_user("root", b"", b""), Err(IdentityError::UnknownUser("root".into())));
    }

    #[test]
    fn without_files_numbers_still_work() {
        let user = resolve_user("5:6", b"", b"").unwrap();
        assert_eq!((user.gid, user.groups), (6, vec![6]));
    }
}
