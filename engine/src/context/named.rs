//! Named contexts (FEATURES CX11).

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_cache::{ContextTree, SourceTree};
use kiln_image::local::LocalName;
use kiln_image::{ImageRef, InvalidReference};
use kiln_remote::StoredObject;
use kiln_solver::plan::NamedContext;

use super::local::{LocalImage, made_up};
use super::remote::Address;
use super::{Origin, Preparation, git, ignore, main_context, remote};
use crate::Error;

/// What all kinds are, for who wrote none of them.
const KINDS: &str = "give a directory, docker-image://NAME, oci-layout://PATH, oci-archive:PATH, tar://FILE, s3://BUCKET/KEY, gs://BUCKET/KEY, or the address of a repository or file";

/// Takes one in: its tree goes to `contexts`, its image in a file to `local_images`. `name` is normalised.
pub(super) fn open(
    preparation: &mut Preparation<'_>,
    name: &str,
    value: &str,
    contexts: &mut HashMap<String, Arc<dyn SourceTree>>,
    local_images: &mut HashMap<ImageRef, LocalImage>,
) -> Result<NamedContext, Error> {
    let invalid = |problem: String| Error::user(format!("build context {name}: {problem}"));
    if !name.contains("::")
        && let Err(error) = name.parse::<ImageRef>()
    {
        return Err(Error::user(format!("invalid context name `{name}`"))
            .hinted(format!("a context is named like an image: {error}")));
    }
    if value.starts_with("target:") {
        return Err(invalid(format!("`{value}` is a target of a bake file"))
            .hinted("a stage of this Dockerfile needs no context: say `FROM` or `--from=` with its name"));
    }
    let tree = if let Some(image) = value.strip_prefix("docker-image://") {
        if image != "scratch" {
            let image = image.parse().map_err(|error: InvalidReference| invalid(error.to_string()))?;
            return Ok(NamedContext::Image(image));
        }
        preparation.empty()?
    } else if let Some(path) = value.strip_prefix("tar://") {
        unpacked(main_context::archive_file(preparation, Path::new(path))?)?
    } else if let Some(path) = value.strip_prefix("dir://") {
        // Before `dir:`, which is an image.
        directory(preparation, name, path)?
    } else if let Some(image) = local_image(value) {
        let made_up = made_up(local_images.len())?;
        local_images.insert(made_up.clone(), image?);
        return Ok(NamedContext::Layout(made_up));
    } else if let Some(git) = git::parse(value, &format!("build context {name}"))? {
        preparation.origins.insert(name.to_owned(), Origin::Git(git.source.clone()));
        remote::git(preparation.session, git.source)?
    } else if Address::is_one(value) {
        let address = Address::parse(preparation.session, value)?;
        let file = remote::download(preparation.session, &address)?;
        let tree = if StoredObject::is_named(value) {
            unpacked(main_context::archive(preparation, file.open()?, Path::new(value))?)?
        } else {
            // Whatever it is: an archive stays one, unlike the main context (as BuildKit has it).
            remote::as_context_file(preparation, &file)?
        };
        preparation.origins.insert(name.to_owned(), Origin::Url(address));
        tree
    } else if let Some((scheme, _)) = value.split_once("://") {
        let message = format!("unsupported context source {scheme} for {name}");
        return Err(Error::user(message).hinted(KINDS));
    } else {
        directory(preparation, name, value)?
    };
    contexts.insert(name.to_owned(), tree);
    Ok(NamedContext::Tree)
}

fn unpacked(root: PathBuf) -> Result<Arc<dyn SourceTree>, Error> {
    Ok(Arc::new(ContextTree::open(&root, None, None)?))
}

/// An image in a file of the host, if that is what the text is.
fn local_image(value: &str) -> Option<Result<LocalImage, Error>> {
    match value.strip_prefix("oci-layout://") {
        Some(layout) => Some(LocalImage::parse_layout(layout)),
        None => LocalName::is_local(value).then(|| LocalImage::parse(value)),
    }
}

fn directory(preparation: &Preparation<'_>, name: &str, value: &str) -> Result<Arc<dyn SourceTree>, Error> {
    let path = Path::new(value.strip_prefix("local:").unwrap_or(value));
    let shown = path.display();
    let root = path.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Error::user(format!("build context {name}: path \"{shown}\" not found")).hinted(KINDS)
        }
        _ => Error::user(format!("build context {name}: {shown}: {error}")),
    })?;
    if !root.is_dir() {
        let error = Error::user(format!("build context {name}: path \"{shown}\" is no directory"));
        return Err(error.hinted(format!("an archive is named `tar://{shown}`")));
    }
    Ok(ignore::directory(preparation.session, &root, ignore::Own::None)?.0)
}

/// `docker.io/library/alpine:latest` and `alpine` are one name.
pub(crate) fn normalised(name: &str) -> String {
    if name.contains("::") {
        return name.to_owned();
    }
    match name.parse::<ImageRef>() {
        Ok(image) => {
            let familiar = image.familiar();
            familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned()
        }
        Err(_) => name.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_one_image_are_one_context() {
        for name in ["alpine", "alpine:latest", "docker.io/library/alpine", "Alpine"] {
            assert_eq!(normalised(name), "alpine", "{name}");
        }
        assert_eq!(normalised("alpine:3"), "alpine:3");
    }
}
