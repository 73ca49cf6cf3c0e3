//! What can be said about a Dockerfile without building it: lint findings, a target's parameters, the targets
//! (FEATURES CL33–CL35).
//!
//! Bases' configs are looked up as for a build, since variables and triggers come from them; no layers are pulled and
//! nothing runs.

use kiln_image::{ImageRef, Platform};
use kiln_parser::lint::{self, Rule};
use kiln_parser::{Checks, Dockerfile, ParseErrors, Span, Warning};
use kiln_solver::event::Event;
use kiln_solver::plan::{self, BaseImage, Outline};

use crate::bases::Bases;
use crate::build::Build;
use crate::session::Session;
use crate::{DockerfileName, Error, context};

/// The build argument that takes the place of `# check=` (FEATURES LX18).
const CHECK_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Rules that a base's variables and working directory decide.
const OF_BASES: [&str; 3] = ["UndefinedVar", "WorkdirRelativePath", "InvalidBaseImagePlatform"];

/// What `--check` tells.
#[derive(Debug)]
#[non_exhaustive]
pub struct CheckReport {
    /// The Dockerfile's name as given.
    pub dockerfile_name: DockerfileName,
    /// Its text.
    pub dockerfile: Vec<u8>,
    /// What the rules found, in the order of the file.
    pub findings: Vec<Finding>,
    /// Why a build would fail before its first step; a finding that `error=true` makes one is among that.
    pub error: Option<Error>,
}

/// Something that a lint rule found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// The rule.
    pub rule: &'static Rule,
    /// What is wrong here.
    pub message: String,
    /// Where: the instruction.
    pub span: Span,
    /// The word of it that is meant, as written, where it is one; [`Span::narrowed`] finds it.
    pub word: Option<String>,
}

/// What `--call=outline` tells.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OutlineReport {
    /// The Dockerfile's text.
    pub dockerfile: Vec<u8>,
    /// The target's parameters.
    pub outline: Outline,
}

/// What `--call=targets` tells.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TargetsReport {
    /// The Dockerfile's text.
    pub dockerfile: Vec<u8>,
    /// The stages in the order of the file.
    pub targets: Vec<Target>,
}

/// A stage that can be built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// Its name; empty for a stage without one.
    pub name: String,
    /// Whether it is built when none is named.
    pub is_default: bool,
    /// What the comment above it says of it.
    pub description: Option<String>,
    /// Its base as written.
    pub base: String,
    /// `--platform` as written.
    pub platform: Option<String>,
    /// Its FROM line.
    pub span: Span,
}

impl Build {
    /// Lints the Dockerfile: all stages, or with a target those that it needs.
    ///
    /// # Errors
    /// What keeps the file from being looked at; what is wrong in it is in the report.
    pub fn check(self) -> Result<CheckReport, Error> {
        self.with_session(|session| session.check())
    }

    /// Tells what the target can be given.
    ///
    /// # Errors
    /// As a build's, up to its first step.
    pub fn outline(self) -> Result<OutlineReport, Error> {
        self.with_session(|session| session.outline())
    }

    /// Tells which stages there are.
    ///
    /// # Errors
    /// What keeps the file from being read.
    pub fn targets(self) -> Result<TargetsReport, Error> {
        self.with_session(|session| session.targets())
    }
}

impl Session<'_> {
    /// Which findings are wanted: by the build argument, else by the file; and by the caller.
    pub(crate) fn checks(&self, dockerfile: &Dockerfile) -> Result<Checks, Error> {
        let given = self.build.args.iter().rev().find(|(name, _)| name == CHECK_ARG);
        let mut checks = match given {
            Some((_, text)) => Checks::parse(text)
                .map_err(|error| Error::user(format!("{CHECK_ARG}: {error}")).hinted(error.hint()))?,
            None => Checks::of(dockerfile).map_err(ParseErrors::from)?,
        };
        for name in &self.build.lint {
            checks.enable(name).map_err(|unknown| {
                let error = Error::user(unknown.to_string());
                match unknown.closest {
                    Some(closest) => error.hinted(format!("did you mean {closest}?")),
                    None => error,
                }
            })?;
        }
        Ok(checks)
    }

    fn check(&self) -> Result<CheckReport, Error> {
        let prepared = context::prepare(self)?;
        let (name, text) = (prepared.dockerfile_name.clone(), prepared.dockerfile.clone());
        let (mut dockerfile, mistakes) = kiln_parser::parse_partly(&text);
        self.rebase(&mut dockerfile);
        let (found, error) = match self.checks(&dockerfile) {
            Err(error) => (Vec::new(), Some(error)),
            Ok(checks) => {
                let (planned, error) = match mistakes {
                    Some(mistakes) => (Vec::new(), Some(Error::from(mistakes))),
                    None => self.check_plan(&dockerfile, prepared)?,
                };
                let found = dockerfile.findings(&checks, &planned);
                let error = error.or_else(|| refuse(&checks, &found).err());
                (found, error)
            }
        };
        Ok(CheckReport {
            findings: found.into_iter().filter_map(Finding::new).collect(),
            error: error.map(|error| error.in_dockerfile(&name, &text)),
            dockerfile_name: name,
            dockerfile: text,
        })
    }

    fn check_plan(
        &self,
        dockerfile: &Dockerfile,
        mut prepared: context::Prepared,
    ) -> Result<(Vec<Warning>, Option<Error>), Error> {
        let request = self.plan_request(&mut prepared, dockerfile)?;
        let bases = Bases::new(self, prepared.local_images, None);
        let mut out_of_reach = Vec::new();
        let mut resolve =
            |image: &ImageRef, platform: &Platform| match bases.resolve_if_in_reach(image, platform)? {
                Some(base) => Ok(base),
                None => {
                    out_of_reach.push(image.clone());
                    Ok(BaseImage::stand_in(&image.to_string(), platform))
                }
            };
        let (mut warnings, error) = plan::check(dockerfile, &request, &mut resolve);
        for image in &out_of_reach {
            let message = format!("{image} cannot be looked up: what depends on it is not checked");
            self.reporter.send(Event::Warning { rule: None, message, span: None });
        }
        if !out_of_reach.is_empty() {
            warnings.retain(|warning| !OF_BASES.contains(&warning.rule));
        }
        Ok((warnings, error.map(Error::from)))
    }

    fn outline(&self) -> Result<OutlineReport, Error> {
        let prepared = context::prepare(self)?;
        let (name, text) = (prepared.dockerfile_name.clone(), prepared.dockerfile.clone());
        let outline = self.outline_prepared(prepared).map_err(|error| error.in_dockerfile(&name, &text))?;
        Ok(OutlineReport { dockerfile: text, outline })
    }

    fn outline_prepared(&self, mut prepared: context::Prepared) -> Result<Outline, Error> {
        let dockerfile = self.read(&prepared.dockerfile)?;
        let request = self.plan_request(&mut prepared, &dockerfile)?;
        let bases = Bases::new(self, prepared.local_images, None);
        let mut resolve = |image: &ImageRef, platform: &Platform| bases.resolve(image, platform);
        Ok(plan::outline(&dockerfile, &request, &mut resolve)?)
    }

    fn targets(&self) -> Result<TargetsReport, Error> {
        let prepared = context::prepare(self)?;
        let (name, text) = (prepared.dockerfile_name, prepared.dockerfile);
        let dockerfile =
            self.read(&text).map_err(|error: ParseErrors| Error::from(error).in_dockerfile(&name, &text))?;
        let last = dockerfile.stages.len().saturating_sub(1);
        let targets = dockerfile.stages.iter().enumerate().map(|(number, stage)| {
            let name = stage.name.as_ref().map_or("", |name| name.value.as_str());
            Target {
                name: name.to_owned(),
                is_default: number == last,
                description: lint::description(&stage.comment, name).map(str::to_owned),
                base: stage.base.value.clone(),
                platform: stage.platform.as_ref().map(|platform| platform.value.clone()),
                span: stage.span,
            }
        });
        let targets = targets.collect();
        Ok(TargetsReport { dockerfile: text, targets })
    }
}

impl Finding {
    fn new(warning: Warning) -> Option<Self> {
        let rule = lint::rule(warning.rule)?;
        Some(Self { rule, message: warning.message, span: warning.span, word: warning.word })
    }
}

/// Fails where the file wants findings to be errors (FEATURES LI23).
pub(crate) fn refuse(checks: &Checks, found: &[Warning]) -> Result<(), Error> {
    if !checks.is_error() || found.is_empty() {
        return Ok(());
    }
    let mut rules: Vec<_> = found.iter().map(|warning| warning.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    Err(Error::user(format!("lint violation found for rules: {}", rules.join(", "))))
}
