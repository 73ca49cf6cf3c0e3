//! `--chown`: names and numbers to ids, by the destination's own passwd and group.

use std::path::Path;

use kiln_cache::LayerTree;

use super::CopyError;
use crate::graph::Owner;
use crate::solve::SolveError;

/// `/etc/passwd` and `/etc/group` of a hostile image are read up to this size (THREATS C10).
const ACCOUNT_FILE_LIMIT: u64 = 4 << 20;

/// The users of the destination, read when first asked for.
pub(super) struct Users<'a> {
    view: Option<&'a LayerTree>,
    passwd: Option<Vec<u8>>,
    group: Option<Vec<u8>>,
}

impl<'a> Users<'a> {
    pub(super) fn new(view: Option<&'a LayerTree>) -> Self {
        Self { view, passwd: None, group: None }
    }

    /// The ids of `user[:group]`. A number is also the group where none is given, a name has the group passwd says; a
    /// name nobody has is root, and a group that is not there is the user's own (FEATURES CP14 and what BuildKit does about
    /// unknown names).
    pub(super) fn resolve(&mut self, owner: &Owner) -> Result<(u32, u32), SolveError> {
        let (user, group) = match owner.0.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (owner.0.as_str(), None),
        };
        let (uid, own_gid) = match number(user, owner)? {
            Some(uid) => (uid, uid),
            None if user.is_empty() => (0, 0),
            None => ids(self.passwd(owner)?, user, 2, 3).unwrap_or((0, 0)),
        };
        let gid = match group {
            None => own_gid,
            // An empty group is root's, as for BuildKit.
            Some("") => 0,
            Some(group) => match number(group, owner)? {
                Some(gid) => gid,
                None => ids(self.group(owner)?, group, 2, 2).map_or(own_gid, |(gid, _)| gid),
            },
        };
        Ok((uid, gid))
    }

    fn passwd(&mut self, owner: &Owner) -> Result<&[u8], SolveError> {
        let view = self.view;
        read(view, &mut self.passwd, "etc/passwd", owner)
    }

    fn group(&mut self, owner: &Owner) -> Result<&[u8], SolveError> {
        let view = self.view;
        read(view, &mut self.group, "etc/group", owner)
    }
}

fn read<'b>(
    view: Option<&LayerTree>,
    cached: &'b mut Option<Vec<u8>>,
    path: &str,
    owner: &Owner,
) -> Result<&'b [u8], SolveError> {
    if cached.is_none() {
        let Some(view) = view else {
            let reason = format!("there is no /{path} to look the name up in; use numbers");
            return Err(CopyError::Owner { owner: owner.0.clone(), reason }.into());
        };
        *cached = Some(view.read_small(Path::new(path), ACCOUNT_FILE_LIMIT)?.unwrap_or_default());
    }
    Ok(cached.as_deref().unwrap_or_default())
}

/// A number, where it is one: numbers are never looked up as names, and neither is `root`.
fn number(text: &str, owner: &Owner) -> Result<Option<u32>, SolveError> {
    if text == "root" {
        return Ok(Some(0));
    }
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match digits.parse() {
        Ok(id) if id <= i32::MAX as u32 => Ok(Some(id)),
        _ => {
            Err(CopyError::Owner { owner: owner.0.clone(), reason: "ids go up to 2147483647".into() }.into())
        }
    }
}

/// Two numeric fields of the first line that `name` begins.
fn ids(file: &[u8], name: &str, first: usize, second: usize) -> Option<(u32, u32)> {
    file.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&str> = std::str::from_utf8(line).ok()?.trim().split(':').collect();
        if fields.first() != Some(&name) {
            return None;
        }
        Some((fields.get(first)?.parse().ok()?, fields.get(second)?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_also_the_group() {
        assert_eq!(Users::new(None).resolve(&Owner("123".into())).unwrap(), (123, 123));
        assert_eq!(Users::new(None).resolve(&Owner("5:6".into())).unwrap(), (5, 6));
    }

    #[test]
    fn root_needs_no_passwd_and_an_empty_group_is_roots() {
        for (owner, ids) in [("root", (0, 0)), ("7:root", (7, 0)), ("5:", (5, 0)), ("+5:+6", (5, 6))] {
            assert_eq!(Users::new(None).resolve(&Owner(owner.into())).unwrap(), ids, "{owner}");
        }
    }

    #[test]
    fn a_name_on_scratch_is_an_error() {
        assert!(Users::new(None).resolve(&Owner("app".into())).is_err());
    }

    #[test]
    fn names_are_found_in_the_files_of_the_image() {
        let passwd = b"root:x:0:0::/:/bin/sh\napp:x:1001:1002::/:/bin/sh\n".to_vec();
        let group = b"root:x:0:\ngrp:x:2002:\n".to_vec();
        let mut users = Users { view: None, passwd: Some(passwd), group: Some(group) };
        for (owner, ids) in [
            ("app", (1001, 1002)),
            ("app:grp", (1001, 2002)),
            ("7:grp", (7, 2002)),
            ("nobody", (0, 0)),
            ("app:nobody", (1001, 1002)),
            ("7:nobody", (7, 7)),
            ("7:8:9", (7, 7)),
        ] {
            assert_eq!(users.resolve(&Owner(owner.into())).unwrap(), ids, "{owner}");
        }
    }
}
