//! `kiln import`.

use std::fs::File;
use std::io::{IsTerminal as _, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln::Registry;
use kiln::images::{Images, Import};

use crate::args::ImportArgs;
use crate::args::registry::RegistryArgs;
use crate::report::Failure;

pub(super) fn run(args: &ImportArgs, images: &Images) -> Result<u8, Failure> {
    let name = args.name.as_deref().map(str::parse).transpose();
    let epoch =
        match super::env("SOURCE_DATE_EPOCH").filter(|epoch| !epoch.is_empty()) {
            None => None,
            Some(epoch) => Some(epoch.parse().map_err(|_| {
                Failure::usage(format!("SOURCE_DATE_EPOCH is no number of seconds: {epoch}"))
            })?),
        };
    let source = Source::of(&args.file);
    let import = Import {
        name: name.map_err(|error: kiln::InvalidReference| Failure::usage(error.to_string()))?,
        changes: args.changes.clone(),
        message: args.message.clone().unwrap_or_else(|| format!("Imported from {}", source.shown())),
        platform: args.platform.clone(),
        created: epoch,
    };
    let image = images.import(&mut source.open()?, &import)?;
    super::print(&format!("{}\n", image.config))?;
    Ok(0)
}

/// Where the tar is.
enum Source<'a> {
    StandardInput,
    File(&'a Path),
    Address(&'a str),
}

impl<'a> Source<'a> {
    fn of(path: &'a Path) -> Self {
        match path.to_str() {
            Some("-") => Self::StandardInput,
            Some(text) if text.starts_with("http://") || text.starts_with("https://") => Self::Address(text),
            _ => Self::File(path),
        }
    }

    /// As an image's history may say it: an address without its user and password, and without its query.
    fn shown(&self) -> String {
        match self {
            Self::StandardInput => "-".to_owned(),
            Self::File(path) => path.display().to_string(),
            Self::Address(address) => {
                let address = address.split(['?', '#']).next().unwrap_or_default();
                match address.split_once("://") {
                    Some((scheme, rest)) => {
                        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                        let host = authority.rsplit('@').next().unwrap_or_default();
                        format!("{scheme}://{host}{path}")
                    }
                    None => address.to_owned(),
                }
            }
        }
    }

    fn open(&self) -> Result<Box<dyn Read + Send>, Failure> {
        match self {
            Self::StandardInput => {
                let input = std::io::stdin();
                if input.is_terminal() {
                    return Err(Failure::usage("a terminal is no tar").with_hint("redirect standard input"));
                }
                Ok(Box::new(input))
            }
            Self::File(path) => Ok(Box::new(File::open(path).map_err(|error| Failure::file(path, &error))?)),
            Self::Address(address) => {
                let cancel = Arc::new(AtomicBool::new(false));
                let raised = Arc::clone(&cancel);
                crate::cancel::on_signal(move || raised.store(true, Ordering::Relaxed));
                let registry = Registry::new(RegistryArgs::default().config()?).map_err(kiln::Error::from)?;
                let download = registry.http().fetch_url(address, &cancel).map_err(kiln::Error::from)?;
                Ok(download.reader)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_what_is_secret_in_it() {
        let shown = |text: &str| Source::of(Path::new(text)).shown();
        assert_eq!(shown("https://u:CANARY@h:1/a/b@c.tar?sig=CANARY"), "https://h:1/a/b@c.tar");
        assert_eq!(shown("https://h"), "https://h");
        assert_eq!((shown("-"), shown("a://b")), ("-".to_owned(), "a://b".to_owned()));
    }
}
