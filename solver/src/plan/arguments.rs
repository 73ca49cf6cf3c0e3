//! Global arguments: the predefined ones, and the `ARG`s before the first FROM (FEATURES AS1, AS10–AS16).

use std::collections::{BTreeMap, HashSet};

use kiln_image::Platform;
use kiln_parser::{Dockerfile, InstructionKind, Span, lint};

use super::environment::Environment;
use super::expansion::expand;
use super::near::nearest;
use super::{PlanError, PlanRequest};

/// The proxies' names. They reach RUN without being declared, and are in no key (FEATURES AS10).
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];
/// Taken by the builder itself (FEATURES AS15), as are all whose names begin with [`OF_BUILDER`] (AS16–AS23).
const EPOCH: &str = "SOURCE_DATE_EPOCH";
const OF_BUILDER: &str = "BUILDKIT_";
/// `TARGETSTAGE` of a target without a name.
const UNNAMED_TARGET: &str = "default";
/// Whether an SBOM looks into the context of the target, and into a stage that it needs (FEATURES AS22).
pub(super) const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
pub(super) const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";
/// Declared like any other, but never in the environment.
pub(super) const NEVER_IN_ENVIRONMENT: [&str; 2] = [SCAN_CONTEXT, SCAN_STAGE];

/// What FROM lines see, and what an ARG without a value takes.
#[derive(Debug)]
pub(super) struct GlobalArgs {
    values: Environment,
    /// Declared in the file, with a value or without.
    declared: BTreeMap<String, Definition>,
}

/// A global ARG.
#[derive(Debug)]
pub(super) struct Definition {
    /// Its instruction.
    pub(super) span: Span,
    /// What the comment above it says of it.
    pub(super) description: Option<String>,
    /// The arguments that its default uses.
    pub(super) uses: Vec<String>,
}

impl GlobalArgs {
    /// The arguments of this build.
    pub(super) fn new(dockerfile: &Dockerfile, request: &PlanRequest) -> Result<Self, PlanError> {
        Self::with(dockerfile, request, &request.build_args)
    }

    /// The arguments as they were without `--build-arg` (for InvalidDefaultArgInFrom).
    pub(super) fn defaults(dockerfile: &Dockerfile, request: &PlanRequest) -> Result<Self, PlanError> {
        Self::with(dockerfile, request, &BTreeMap::new())
    }

    fn with(
        dockerfile: &Dockerfile,
        request: &PlanRequest,
        build_args: &BTreeMap<String, String>,
    ) -> Result<Self, PlanError> {
        let mut values = predefined(dockerfile, request);
        let mut declared: BTreeMap<String, Definition> = BTreeMap::new();
        let no_comment = Vec::new();
        let comments = dockerfile.global_comments.iter().chain(std::iter::repeat(&no_comment));
        let args = dockerfile.global_args.iter().zip(comments);
        let pairs =
            args.flat_map(|(arg, comment)| arg.value.iter().map(move |pair| (pair, arg.span, comment)));
        for (pair, span, comment) in pairs {
            let name = &pair.name.value;
            let mut uses = Vec::new();
            let value = match (build_args.get(name), &pair.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => {
                    let escape = dockerfile.directives.escape;
                    let expanded = expand(default, &values, escape, default.span)?;
                    uses = expanded.found;
                    Some(expanded.value)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                values.set(name, &value);
            }
            // `ARG A=$A-x` uses what the earlier A used.
            if uses.iter().any(|used| used == name) {
                uses.extend(declared.get(name).iter().flat_map(|earlier| earlier.uses.iter().cloned()));
            }
            let description = lint::description(comment, name).map(str::to_owned);
            declared.insert(name.clone(), Definition { span, description, uses });
        }
        Ok(Self { values, declared })
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name)
    }

    /// The last ARG above the first FROM with this name.
    pub(super) fn definition(&self, name: &str) -> Option<&Definition> {
        self.declared.get(name)
    }

    pub(super) fn values(&self) -> &Environment {
        &self.values
    }

    /// Whether a FROM line may use it without a warning.
    pub(super) fn is_known(&self, name: &str) -> bool {
        self.declared.contains_key(name) || self.values.get(name).is_some()
    }

    /// The build arguments that nothing takes: no ARG of the file, none of `declared`, and not the builder. Each comes
    /// with an ARG's name that is near.
    pub(super) fn unused(
        &self,
        given: &BTreeMap<String, String>,
        declared: &HashSet<String>,
    ) -> Vec<(String, Option<String>)> {
        let is_used = |name: &str| {
            declared.contains(name)
                || self.is_known(name)
                || name == EPOCH
                || name.starts_with(OF_BUILDER)
                || PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
        };
        let names = || declared.iter().map(String::as_str).chain(self.declared.keys().map(String::as_str));
        let unused = given.keys().filter(|name| !is_used(name));
        unused.map(|name| (name.clone(), nearest(name, names()).map(str::to_owned))).collect()
    }

    /// All names that FROM lines may use.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let valueless =
            self.declared.keys().map(String::as_str).filter(|name| self.values.get(name).is_none());
        self.values.names().chain(valueless)
    }
}

fn predefined(dockerfile: &Dockerfile, request: &PlanRequest) -> Environment {
    let build = &request.build_platform;
    let target = target_platform(request);
    let last_stage = dockerfile.stages.last().and_then(|stage| stage.name.as_ref());
    let stage = request.target.as_deref().or(last_stage.map(|name| name.value.as_str()));
    let platforms = [build, target].map(ToString::to_string);
    let pairs = [
        ("BUILDPLATFORM", platforms[0].as_str()),
        ("BUILDOS", &build.os),
        ("BUILDOSVERSION", ""),
        ("BUILDARCH", &build.architecture),
        ("BUILDVARIANT", &build.variant),
        ("TARGETPLATFORM", &platforms[1]),
        ("TARGETOS", &target.os),
        ("TARGETOSVERSION", ""),
        ("TARGETARCH", &target.architecture),
        ("TARGETVARIANT", &target.variant),
        ("TARGETSTAGE", stage.filter(|name| !name.is_empty()).unwrap_or(UNNAMED_TARGET)),
    ];
    let mut values = Environment::default();
    for (name, value) in pairs {
        values.set(name, request.build_args.get(name).map_or(value, String::as_str));
    }
    values
}

/// What is built for.
pub(super) fn target_platform(request: &PlanRequest) -> &Platform {
    request.platform.as_ref().unwrap_or(&request.build_platform)
}

/// `NAME=value` of the proxies given as build arguments, each in both cases; the lower-case argument wins.
pub(super) fn proxies(build_args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut proxies = Vec::new();
    for name in PROXIES {
        // A BTreeMap has upper case before lower case.
        let given = build_args.iter().rfind(|(key, _)| key.eq_ignore_ascii_case(name));
        if let Some((_, value)) = given.filter(|(_, value)| !value.is_empty()) {
            proxies.push((name.to_owned(), value.clone()));
            proxies.push((name.to_ascii_lowercase(), value.clone()));
        }
    }
    proxies
}

/// The names of the stages' ARGs, those of unneeded stages too.
pub(super) fn declared(dockerfile: &Dockerfile) -> HashSet<String> {
    let instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let pairs = instructions.flat_map(|instruction| match &instruction.kind {
        InstructionKind::Arg(pairs) => pairs.as_slice(),
        _ => &[],
    });
    pairs.map(|pair| pair.name.value.clone()).collect()
}
