//! What stands where in a tar, without unpacking it.
//!
//! kiln walks the headers itself: names of any length and attributes have limits here, and whatever two readers could
//! read differently (sparse files, two entries of one name) is refused or not taken.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::layout::{At as _, LayoutError};

/// Most entries that an archive may have.
const MAX_ENTRIES: usize = 100_000;
/// Longest name or set of PAX attributes.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// Longest chain of links (old docker archives link equal layers).
const MAX_LINKS: usize = 8;
/// tar's unit.
const BLOCK: u64 = 512;

/// Where a file's bytes stand in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// The files of an archive by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    files: HashMap<String, Extent>,
    links: HashMap<String, String>,
}

#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Contents {
    /// The file of that name, also through links of the archive.
    pub(super) fn file(&self, name: &str) -> Option<Extent> {
        let mut name = normal(name)?;
        for _ in 0..=MAX_LINKS {
            if let Some(extent) = self.files.get(&name) {
                return Some(*extent);
            }
            name = self.links.get(&name)?.clone();
        }
        None
    }
}

pub(super) fn scan(file: &File, path: &Path) -> Result<Contents, LayoutError> {
    let wrong = |reason: &str| LayoutError::NotAnImage { path: path.to_owned(), reason: reason.to_owned() };
    let end = file.metadata().at(path)?.len();
    let mut contents = Contents::default();
    let mut extensions = Extensions::default();
    let (mut at, mut entries) = (0, 0);
    while at + BLOCK <= end {
        let mut header = tar::Header::new_old();
        file.read_exact_at(header.as_mut_bytes(), at).at(path)?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(contents);
        }
        check_sum(&header).ok_or_else(|| wrong("not a tar archive, or a damaged one"))?;
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(LayoutError::TooLarge {
                what: "the archive's number of entries",
                limit: MAX_ENTRIES as u64,
            });
        }
        let kind = header.entry_type();
        let own_size = header.entry_size().map_err(|_| wrong("an entry's size is malformed"))?;
        let extends = kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions();
        // A size in PAX attributes is that of the next file.
        let size = if extends || kind.is_pax_global_extensions() {
            own_size
        } else {
            extensions.size.unwrap_or(own_size)
        };
        let offset = at + BLOCK;
        let next = size.checked_next_multiple_of(BLOCK).and_then(|padded| offset.checked_add(padded));
        let next = next.ok_or_else(|| wrong("an entry's size is malformed"))?;
        if offset + size > end {
            return Err(wrong("the archive is cut off"));
        }
        at = next;
        if extends {
            if size > MAX_EXTENSION_BYTES {
                return Err(LayoutError::TooLarge {
                    what: "a name in the archive",
                    limit: MAX_EXTENSION_BYTES,
                });
            }
            let mut bytes = vec![0; size as usize];
            file.read_exact_at(&mut bytes, offset).at(path)?;
            extensions.add(kind, &bytes).ok_or_else(|| wrong("an entry's PAX attributes are malformed"))?;
            continue;
        }
        if kind.is_pax_global_extensions() {
            continue;
        }
        let found = std::mem::take(&mut extensions);
        if kind.is_gnu_sparse() {
            return Err(wrong("it has sparse entries"));
        }
        let own_name = found.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let Some(name) = std::str::from_utf8(&own_name).ok().and_then(normal) else { continue };
        if kind.is_file() || kind.is_contiguous() {
            if contents.files.insert(name, Extent { offset, size }).is_some() {
                return Err(wrong("two entries have the same name"));
            }
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = found.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
            let target = target.and_then(|target| String::from_utf8(target).ok());
            let target = target.and_then(|target| link_target(&name, &target, kind.is_symlink()));
            if let Some(target) = target {
                contents.links.insert(name, target);
            }
        }
    }
    if entries == 0 {
        return Err(wrong("not a tar archive"));
    }
    Ok(contents)
}

impl Extensions {
    fn add(&mut self, kind: tar::EntryType, bytes: &[u8]) -> Option<()> {
        let text = || bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        if kind.is_gnu_longname() {
            self.name = Some(text());
        } else if kind.is_gnu_longlink() {
            self.link = Some(text());
        } else {
            for extension in tar::PaxExtensions::new(bytes) {
                let extension = extension.ok()?;
                let value = extension.value_bytes().to_vec();
                match extension.key_bytes() {
                    b"path" => self.name = Some(value),
                    b"linkpath" => self.link = Some(value),
                    b"size" => self.size = Some(extension.value().ok()?.parse().ok()?),
                    key if key.starts_with(b"GNU.sparse.") => return None,
                    _ => {}
                }
            }
        }
        Some(())
    }
}

fn check_sum(header: &tar::Header) -> Option<()> {
    let bytes = header.as_bytes();
    let sum = bytes
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) });
    (header.cksum().ok()? == sum.sum::<u32>()).then_some(())
}

/// `./a//b` as `a/b`; `None` for what leaves the archive.
fn normal(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// Symbolic links are relative to their directory, hard links to the archive's root.
fn link_target(name: &str, target: &str, symbolic: bool) -> Option<String> {
    match name.rsplit_once('/') {
        Some((directory, _)) if symbolic && !target.starts_with('/') => {
            normal(&format!("{directory}/{target}"))
        }
        _ => normal(target),
    }
}
