//! Images of the host's, named as containers-transports(5) does: `oci-archive:base.tar`, `oci:layout:1.2`,
//! `containers-storage:localhost/app`. What docker's daemon has is had by asking it, which is not done here.
//!
//! A name says where and which; [`LocalName::open`] reads what is there, whatever kind it is.

mod directory;
mod storage;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub use directory::Directory;
pub use storage::{Env, StorageImage, Whose};

use crate::archive::Archive;
use crate::layout::{Layout, LayoutError, Selector};
use crate::oci::Descriptor;
use crate::registry::RemoteImage;
use crate::{ImageRef, Platform};
use storage::Wanted;

/// An image on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalName {
    place: Place,
    selector: Selector,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Archive(PathBuf),
    Layout(PathBuf),
    Directory(PathBuf),
    Storage(Wanted),
    /// The image as the daemon knows it.
    Daemon(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Archive,
    Layout,
    Directory,
    Storage,
    Daemon,
}

/// The words of containers-transports(5) that name something on this machine.
const TRANSPORTS: [(&str, Kind); 6] = [
    ("oci-archive", Kind::Archive),
    ("docker-archive", Kind::Archive),
    ("oci", Kind::Layout),
    ("dir", Kind::Directory),
    ("containers-storage", Kind::Storage),
    ("docker-daemon", Kind::Daemon),
];

/// The text begins as a local name does and is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLocalName {
    /// Nothing behind the transport's word.
    #[error("{transport}: names no {what}")]
    Nothing {
        /// The transport's word.
        transport: &'static str,
        /// `path` or `image`.
        what: &'static str,
    },
    /// What follows `@` is neither number nor digest.
    #[error("`@{text}` is neither the number of an image nor a digest")]
    InvalidIndex {
        /// What follows `@`.
        text: String,
    },
}

impl InvalidLocalName {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Nothing { transport, what: "path" } => {
                Some(format!("write {transport}:PATH or {transport}:PATH:NAME"))
            }
            Self::Nothing { transport, .. } => Some(format!("write {transport}:NAME:TAG")),
            Self::InvalidIndex { .. } => Some("write @0 for the first image".into()),
        }
    }
}

impl LocalName {
    /// Whether `text` begins with the word of a transport, so that it is a local name or a mistake in one.
    pub fn is_local(text: &str) -> bool {
        transport(text).is_some()
    }

    /// Reads `TRANSPORT:PATH`, `TRANSPORT:PATH:NAME`, `TRANSPORT:PATH:@NUMBER` (a path has no colon), and
    /// `TRANSPORT:IMAGE` of a store.
    ///
    /// # Errors
    /// See [`InvalidLocalName`]; for a text without a transport's word [`InvalidLocalName::Nothing`].
    pub fn parse(text: &str) -> Result<Self, InvalidLocalName> {
        let nothing = |transport, what| InvalidLocalName::Nothing { transport, what };
        let (word, kind, rest) = transport(text).ok_or(nothing("oci", "path"))?;
        let (path, which) = match (kind, rest.split_once(':')) {
            (Kind::Archive | Kind::Layout, Some((path, which))) => (path, which),
            _ => (rest, ""),
        };
        let place = match kind {
            Kind::Storage => Place::Storage(Wanted::parse(rest).ok_or(nothing(word, "image"))?),
            Kind::Daemon if rest.is_empty() => return Err(nothing(word, "image")),
            Kind::Daemon => Place::Daemon(rest.to_owned()),
            _ if path.is_empty() => return Err(nothing(word, "path")),
            Kind::Archive => Place::Archive(path.into()),
            Kind::Layout => Place::Layout(path.into()),
            Kind::Directory => Place::Directory(path.into()),
        };
        Ok(Self { place, selector: selector(which)? })
    }

    /// An image of a layout directory.
    pub fn in_layout(path: impl Into<PathBuf>, selector: Selector) -> Self {
        Self { place: Place::Layout(path.into()), selector }
    }

    /// Which image of those that are there.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// What is to be asked of docker's daemon, if the image is its.
    pub fn in_daemon(&self) -> Option<&str> {
        match &self.place {
            Place::Daemon(image) => Some(image),
            _ => None,
        }
    }

    /// Reads the table of contents. `spool` is a directory with room for an archive that is compressed.
    ///
    /// # Errors
    /// When there are no images, or only a daemon knows; I/O.
    pub fn open(
        &self,
        spool: &Path,
        host: &Host<'_>,
        cancel: &AtomicBool,
    ) -> Result<LocalImages, LayoutError> {
        Ok(match &self.place {
            Place::Archive(path) => LocalImages::Archive(Archive::open(path, spool, cancel)?),
            Place::Layout(path) => LocalImages::Layout(Layout::open(path)?),
            Place::Directory(path) => LocalImages::Directory(Directory::open(path)?),
            Place::Storage(wanted) => LocalImages::Storage(wanted.open(host.whose, host.env)?),
            Place::Daemon(image) => {
                let reason = "only the daemon can be asked for it".to_owned();
                return Err(LayoutError::NotAnImage { path: image.into(), reason });
            }
        })
    }
}

/// What the host is to who asks.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    /// Whose stores are meant.
    pub whose: Whose,
    /// The environment.
    pub env: &'a Env<'a>,
}

/// Images of the host's, opened.
#[derive(Debug)]
pub enum LocalImages {
    /// A tar of docker's or of an OCI layout.
    Archive(Archive),
    /// An OCI layout.
    Layout(Layout),
    /// One image, its blobs as files beside its manifest.
    Directory(Directory),
    /// One image of a store of podman's or buildah's.
    Storage(StorageImage),
}

impl LocalImages {
    /// Finds an image and reads its manifest and config for `platform`; `reference` is only what it is called.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn resolve(
        &self,
        selector: &Selector,
        reference: &ImageRef,
        platform: &Platform,
    ) -> Result<RemoteImage, LayoutError> {
        match self {
            Self::Archive(archive) => archive.resolve(selector, reference, platform),
            Self::Layout(layout) => layout.resolve(selector, reference, platform),
            Self::Directory(directory) => directory.resolve(reference, platform),
            Self::Storage(image) => image.resolve(reference, platform),
        }
    }

    /// Opens a blob; the reader gives an error instead of the end of file when it is not what the descriptor says.
    ///
    /// # Errors
    /// [`LayoutError::MissingBlob`]; I/O.
    pub fn blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, LayoutError> {
        match self {
            Self::Archive(archive) => archive.blob(blob),
            Self::Layout(layout) => layout.blob(blob),
            Self::Directory(directory) => directory.blob(blob),
            Self::Storage(image) => image.blob(blob),
        }
    }
}

fn transport(text: &str) -> Option<(&'static str, Kind, &str)> {
    let (word, rest) = text.split_once(':')?;
    TRANSPORTS.iter().find(|(known, _)| *known == word).map(|(known, kind)| (*known, *kind, rest))
}

fn selector(which: &str) -> Result<Selector, InvalidLocalName> {
    let Some(text) = which.strip_prefix('@') else {
        return Ok(if which.is_empty() { Selector::Only } else { Selector::Name(which.to_owned()) });
    };
    match (text.parse(), text.parse()) {
        (Ok(number), _) => Ok(Selector::Number(number)),
        (_, Ok(digest)) => Ok(Selector::Digest(digest)),
        _ => Err(InvalidLocalName::InvalidIndex { text: text.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_transport_a_path_and_perhaps_which_image() {
        let parsed = |text: &str| {
            let name = LocalName::parse(text).unwrap();
            (name.place, name.selector)
        };
        let tagged = |name: &str| Selector::Name(name.to_owned());
        let archive = |path: &str| Place::Archive(path.into());
        assert_eq!(parsed("oci-archive:a.tar"), (archive("a.tar"), Selector::Only));
        assert_eq!(parsed("oci:/d/l:1.2"), (Place::Layout("/d/l".into()), tagged("1.2")));
        assert_eq!(parsed("docker-archive:a.tar:app:1"), (archive("a.tar"), tagged("app:1")));
        assert_eq!(parsed("docker-archive:a.tar:@2"), (archive("a.tar"), Selector::Number(2)));
        assert_eq!(parsed("dir:a:b"), (Place::Directory("a:b".into()), Selector::Only));
        let (place, _) = parsed("containers-storage:[vfs@/s]app:1");
        let store = Some((Some("vfs".to_owned()), "/s".into()));
        assert_eq!(place, Place::Storage(Wanted { store, image: "app:1".to_owned() }));
        assert_eq!(LocalName::parse("docker-daemon:app:1").unwrap().in_daemon(), Some("app:1"));
    }

    #[test]
    fn names_of_images_are_not_local() {
        for text in ["oci", "oci/app:1", "ocix:1", "localhost:5000/oci", "docker://x"] {
            assert!(!LocalName::is_local(text), "{text}");
        }
    }

    #[test]
    fn missing_paths_and_images_are_told() {
        let told = |text: &str| {
            let error = LocalName::parse(text).unwrap_err();
            format!("{error}\n{}", error.hint().unwrap_or_default())
        };
        insta::assert_snapshot!(told("containers-storage:"), @r"
        containers-storage: names no image
        write containers-storage:NAME:TAG
        ");
        insta::assert_snapshot!(told("oci:"), @r"
        oci: names no path
        write oci:PATH or oci:PATH:NAME
        ");
        insta::assert_snapshot!(told("oci-archive:a:@x"), @r"
        `@x` is neither the number of an image nor a digest
        write @0 for the first image
        ");
    }
}
