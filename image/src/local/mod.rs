//! Images in files of the host, named as containers-transports(5) does: `oci-archive:base.tar`, `oci:layout:1.2`.
//!
//! A name says where and which; [`LocalName::open`] reads what is there, whatever kind it is.

mod directory;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub use directory::Directory;

use crate::archive::Archive;
use crate::layout::{Layout, LayoutError, Selector};
use crate::oci::Descriptor;
use crate::registry::RemoteImage;
use crate::{ImageRef, Platform};

/// An image in a file or directory of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalName {
    kind: Kind,
    path: PathBuf,
    selector: Selector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Archive,
    Layout,
    Directory,
}

/// The words of containers-transports(5) that name something on this machine; `None` is not read.
const TRANSPORTS: [(&str, Option<Kind>); 6] = [
    ("oci-archive", Some(Kind::Archive)),
    ("docker-archive", Some(Kind::Archive)),
    ("oci", Some(Kind::Layout)),
    ("dir", Some(Kind::Directory)),
    ("containers-storage", None),
    ("docker-daemon", None),
];

/// The text begins as a local name does and is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLocalName {
    /// Another program's store.
    #[error("images of another program's store ({transport}:) are not read")]
    OtherStore {
        /// `containers-storage` or `docker-daemon`.
        transport: &'static str,
    },
    /// Nothing behind the transport's word.
    #[error("{transport}: names no path")]
    NoPath {
        /// The transport's word.
        transport: &'static str,
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
            Self::OtherStore { transport: "docker-daemon" } => {
                Some("save it with `docker save -o base.tar NAME` and use docker-archive:base.tar".into())
            }
            Self::OtherStore { .. } => Some(
                "save it with `podman save --format oci-archive -o base.tar NAME` and use oci-archive:base.tar"
                    .into(),
            ),
            Self::NoPath { transport } => Some(format!("write {transport}:PATH or {transport}:PATH:NAME")),
            Self::InvalidIndex { .. } => Some("write @0 for the first image".into()),
        }
    }
}

impl LocalName {
    /// Whether `text` begins with the word of a transport, so that it is a local name or a mistake in one.
    pub fn is_local(text: &str) -> bool {
        transport(text).is_some()
    }

    /// Reads `TRANSPORT:PATH`, `TRANSPORT:PATH:NAME`, `TRANSPORT:PATH:@NUMBER`. A path has no colon.
    ///
    /// # Errors
    /// See [`InvalidLocalName`]; for a text without a transport's word [`InvalidLocalName::NoPath`].
    pub fn parse(text: &str) -> Result<Self, InvalidLocalName> {
        let (word, kind, rest) = transport(text).ok_or(InvalidLocalName::NoPath { transport: "oci" })?;
        let kind = kind.ok_or(InvalidLocalName::OtherStore { transport: word })?;
        let (path, which) = match rest.split_once(':').filter(|_| kind != Kind::Directory) {
            Some((path, which)) => (path, which),
            None => (rest, ""),
        };
        if path.is_empty() {
            return Err(InvalidLocalName::NoPath { transport: word });
        }
        Ok(Self { kind, path: path.into(), selector: selector(which)? })
    }

    /// An image of a layout directory.
    pub fn in_layout(path: impl Into<PathBuf>, selector: Selector) -> Self {
        Self { kind: Kind::Layout, path: path.into(), selector }
    }

    /// Which image of those that are there.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// Reads the table of contents. `spool` is a directory with room for an archive that is compressed.
    ///
    /// # Errors
    /// When there are no images; I/O.
    pub fn open(&self, spool: &Path, cancel: &AtomicBool) -> Result<LocalImages, LayoutError> {
        Ok(match self.kind {
            Kind::Archive => LocalImages::Archive(Archive::open(&self.path, spool, cancel)?),
            Kind::Layout => LocalImages::Layout(Layout::open(&self.path)?),
            Kind::Directory => LocalImages::Directory(Directory::open(&self.path)?),
        })
    }
}

/// Images in a file or directory of the host, opened.
#[derive(Debug)]
pub enum LocalImages {
    /// A tar of docker's or of an OCI layout.
    Archive(Archive),
    /// An OCI layout.
    Layout(Layout),
    /// One image, its blobs as files beside its manifest.
    Directory(Directory),
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
        }
    }
}

fn transport(text: &str) -> Option<(&'static str, Option<Kind>, &str)> {
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

    fn parsed(text: &str) -> (Kind, String, Selector) {
        let name = LocalName::parse(text).unwrap();
        (name.kind, name.path.display().to_string(), name.selector)
    }

    #[test]
    fn a_name_has_a_transport_a_path_and_perhaps_which_image() {
        let tagged = |name: &str| Selector::Name(name.to_owned());
        assert_eq!(parsed("oci-archive:a.tar"), (Kind::Archive, "a.tar".into(), Selector::Only));
        assert_eq!(parsed("oci:/d/l:1.2"), (Kind::Layout, "/d/l".into(), tagged("1.2")));
        assert_eq!(parsed("docker-archive:a.tar:app:1"), (Kind::Archive, "a.tar".into(), tagged("app:1")));
        assert_eq!(parsed("docker-archive:a.tar:@2"), (Kind::Archive, "a.tar".into(), Selector::Number(2)));
        assert_eq!(parsed("dir:a:b"), (Kind::Directory, "a:b".into(), Selector::Only));
    }

    #[test]
    fn names_of_images_are_not_local() {
        for text in ["oci", "oci/app:1", "ocix:1", "localhost:5000/oci", "docker://x"] {
            assert!(!LocalName::is_local(text), "{text}");
        }
    }

    #[test]
    fn other_programs_stores_and_missing_paths_are_told() {
        let told = |text: &str| {
            let error = LocalName::parse(text).unwrap_err();
            format!("{error}\n{}", error.hint().unwrap_or_default())
        };
        insta::assert_snapshot!(told("containers-storage:localhost/app"), @r"
        images of another program's store (containers-storage:) are not read
        save it with `podman save --format oci-archive -o base.tar NAME` and use oci-archive:base.tar
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
