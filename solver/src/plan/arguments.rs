//! Global arguments: the predefined ones, and the `ARG`s before the first FROM (FEATURES AS1, AS10–AS16).

use std::collections::{BTreeMap, BTreeSet};

use kiln_image::Platform;
use kiln_parser::Dockerfile;

use super::environment::Environment;
use super::expansion::expand;
use super::{PlanError, PlanRequest};

/// The proxies' names. They reach RUN without being declared, and are in no key (FEATURES AS10).
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];
/// `TARGETSTAGE` of a target without a name.
const UNNAMED_TARGET: &str = "default";
/// Declared like any other, but never in the environment (FEATURES AS22).
pub(super) const NEVER_IN_ENVIRONMENT: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// What FROM lines see, and what an ARG without a value takes.
#[derive(Debug)]
pub(super) struct GlobalArgs {
    values: Environment,
    /// Declared in the file, with a value or without.
    declared: BTreeSet<String>,
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
        let mut declared = BTreeSet::new();
        for pair in dockerfile.global_args.iter().flat_map(|arg| &arg.value) {
            let name = &pair.name.value;
            let value = match (build_args.get(name), &pair.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => {
                    let escape = dockerfile.directives.escape;
                    Some(expand(default, &values, escape, default.span)?.value)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                values.set(name, &value);
            }
            declared.insert(name.clone());
        }
        Ok(Self { values, declared })
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name)
    }

    pub(super) fn values(&self) -> &Environment {
        &self.values
    }

    /// Whether a FROM line may use it without a warning.
    pub(super) fn is_known(&self, name: &str) -> bool {
        self.declared.contains(name) || self.values.get(name).is_some()
    }

    /// All names that FROM lines may use.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let valueless =
            self.declared.iter().map(String::as_str).filter(|name| self.values.get(name).is_none());
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
        let given = build_args.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).last();
        if let Some((_, value)) = given.filter(|(_, value)| !value.is_empty()) {
            proxies.push((name.to_owned(), value.clone()));
            proxies.push((name.to_ascii_lowercase(), value.clone()));
        }
    }
    proxies
}
