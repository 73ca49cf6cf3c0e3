//! Which frontend a Dockerfile asks for (FEATURES LX14–LX16).
//!
//! BuildKit runs the image that `# syntax=` names. kiln has the official one's language built in and runs none: the
//! official names are taken as they are, any other is refused before the rest of the file is looked at, which may be in
//! a language of its own.

use kiln_image::ImageRef;
use kiln_parser::Span;

use crate::build::Build;
use crate::context::normalised;
use crate::error::ErrorLabel;
use crate::{Error, ErrorKind};

/// The repositories of the official frontend.
const OFFICIAL: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];

/// BuildKit's name for the frontend it has built in.
const BUILT_IN: &str = "dockerfile.v0";

/// The build argument that goes before the directive.
const ARGUMENT: &str = "BUILDKIT_SYNTAX";

/// Refuses a file that asks for a frontend that kiln has not.
pub(crate) fn check(build: &Build, dockerfile: &[u8]) -> Result<(), Error> {
    if let Some((_, value)) = build.args.iter().rev().find(|(name, _)| name == ARGUMENT) {
        return match value.split_whitespace().next() {
            None => Err(Error::user(format!("the build argument {ARGUMENT} is empty"))),
            Some(frontend) => check_name(build, frontend, None),
        };
    }
    match kiln_parser::syntax(dockerfile) {
        None => Ok(()),
        Some(syntax) => match syntax.value.split_whitespace().next() {
            None => Ok(()),
            Some(frontend) => check_name(build, frontend, Some(syntax.span)),
        },
    }
}

fn check_name(build: &Build, frontend: &str, span: Option<Span>) -> Result<(), Error> {
    // A context of that name stands for the image (FEATURES LX16).
    let name = normalised(frontend);
    let replaced = build.contexts.iter().find(|(context, _)| normalised(context) == name);
    let wanted =
        replaced.map_or(frontend, |(_, value)| value.strip_prefix("docker-image://").unwrap_or(value));
    if is_official(wanted) {
        return Ok(());
    }
    let message = format!("the Dockerfile frontend {wanted} cannot be run: kiln has only its own");
    let mut error = Error::new(ErrorKind::User, message.clone()).hinted(format!(
        "if the file is an ordinary Dockerfile, take the line out or build with `--build-arg {ARGUMENT}=docker/dockerfile:1`"
    ));
    error.labels.extend(span.map(|span| ErrorLabel { span, part: None, word: None, message, hint: None }));
    Err(error)
}

fn is_official(frontend: &str) -> bool {
    if frontend == BUILT_IN {
        return true;
    }
    frontend.parse::<ImageRef>().is_ok_and(|image| {
        let familiar = image.familiar();
        let name = familiar.split('@').next().unwrap_or(&familiar);
        OFFICIAL.contains(&name.split(':').next().unwrap_or(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_official_frontends_names_are_those_of_kilns_own() {
        let digest = "sha256:".to_owned() + &"0".repeat(64);
        for name in [
            "docker/dockerfile",
            "docker/dockerfile:1",
            "docker/dockerfile:1.7-labs",
            "docker.io/docker/dockerfile:1",
            "docker/dockerfile-upstream:master",
            &format!("docker/dockerfile:1@{digest}"),
            "dockerfile.v0",
        ] {
            assert!(is_official(name), "{name}");
        }
        for name in ["docker/dockerfile2", "evil/docker/dockerfile", "h:5000/docker/dockerfile:1", "x", ""] {
            assert!(!is_official(name), "{name}");
        }
    }

    #[test]
    fn the_build_argument_goes_before_the_directive() {
        let text = b"#!/bin/x\n# syntax=h/other:1 --flag\nFROM scratch\n";
        let build = || Build::from_context(".");
        let error = check(&build(), text).unwrap_err();
        assert_eq!(error.message, "the Dockerfile frontend h/other:1 cannot be run: kiln has only its own");
        assert_eq!(error.labels[0].span.line, 2);
        assert!(check(&build().arg(ARGUMENT, "docker/dockerfile:1"), text).is_ok());
        assert!(check(&build().arg(ARGUMENT, BUILT_IN), text).is_ok());
        assert!(check(&build().arg(ARGUMENT, ""), b"FROM scratch").is_err());
        assert!(
            check(&build().named_context("h/other:1", "docker-image://docker/dockerfile:1"), text).is_ok()
        );
        let official = b"# syntax=docker/dockerfile:1\nFROM scratch\n";
        assert!(
            check(&build().named_context("docker/dockerfile:1", "docker-image://h/x"), official).is_err()
        );
    }
}
