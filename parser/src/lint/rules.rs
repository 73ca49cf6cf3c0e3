//! The list of all rules.

use super::{Find, casing, description, maintainer, own, stage_names};

/// A lint rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name in Pascal case; what `# check=skip=` takes.
    pub name: &'static str,
    /// What it asks for.
    pub description: &'static str,
    /// The end of [`Rule::url`]; empty where there is no page.
    page: &'static str,
    /// Whose rule it is.
    pub origin: Origin,
    /// Whether it is silent until `# check=experimental=` names it.
    pub is_experimental: bool,
    /// What a comment above an instruction can silence it for.
    pub scope: Scope,
    /// Finds it in the text. `None` for rules that the lexer or the planner finds.
    pub(crate) find: Option<Find>,
}

/// Whose rule it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// BuildKit's, with its name and wording.
    BuildKit,
    /// kiln's own. Silent until it is named, or all of them are by the word `kiln`.
    Kiln,
}

/// Where a rule can be silenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// For the whole file only: BuildKit judges it with the options at the top.
    File,
    /// Also by a comment right above the instruction.
    Instruction,
}

impl Rule {
    /// Where the rule is explained.
    pub fn url(&self) -> Option<String> {
        match self.origin {
            _ if self.page.is_empty() => None,
            Origin::BuildKit => Some(format!("https://docs.docker.com/go/dockerfile/rule/{}/", self.page)),
            Origin::Kiln => Some(self.page.to_owned()),
        }
    }

    /// Whether BuildKit finds it instruction by instruction, so that it is told although a later line is wrong.
    pub(crate) fn is_seen_while_reading(&self) -> bool {
        matches!(
            self.name,
            "StageNameCasing" | "FromAsCasing" | "MaintainerDeprecated" | "InvalidDefinitionDescription"
        )
    }

    const fn found_by(self, find: Find) -> Self {
        Self { find: Some(find), ..self }
    }

    const fn experimental(self) -> Self {
        Self { is_experimental: true, ..self }
    }

    const fn whole_file(self) -> Self {
        Self { scope: Scope::File, ..self }
    }
}

const fn buildkit(name: &'static str, page: &'static str, description: &'static str) -> Rule {
    Rule {
        name,
        description,
        page,
        origin: Origin::BuildKit,
        is_experimental: false,
        scope: Scope::Instruction,
        find: None,
    }
}

const fn kiln(name: &'static str, description: &'static str, find: Find) -> Rule {
    Rule { origin: Origin::Kiln, is_experimental: true, find: Some(find), ..buildkit(name, "", description) }
}

/// Returns the rule of that exact name.
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}

/// All rules, BuildKit's first. `docs/lint.md` shows each with a bad and a good example.
pub const RULES: &[Rule] = &[
    buildkit("StageNameCasing", "stage-name-casing", "Stage names should be lowercase")
        .found_by(casing::stage_name),
    buildkit(
        "FromAsCasing",
        "from-as-casing",
        "The 'as' keyword should match the case of the 'from' keyword",
    )
    .found_by(casing::from_as),
    buildkit(
        "NoEmptyContinuation",
        "no-empty-continuation",
        "Empty continuation lines will become errors in a future release",
    )
    .whole_file(),
    buildkit(
        "ConsistentInstructionCasing",
        "consistent-instruction-casing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    )
    .found_by(casing::instructions)
    .whole_file(),
    buildkit("DuplicateStageName", "duplicate-stage-name", "Stage names should be unique")
        .found_by(stage_names::duplicate)
        .whole_file(),
    buildkit(
        "ReservedStageName",
        "reserved-stage-name",
        "Reserved words should not be used as stage names",
    )
    .found_by(stage_names::reserved)
    .whole_file(),
    buildkit(
        "JSONArgsRecommended",
        "json-args-recommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    buildkit(
        "MaintainerDeprecated",
        "maintainer-deprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    )
    .found_by(maintainer::deprecated),
    buildkit("UndefinedArgInFrom", "undefined-arg-in-from", "FROM command must use declared ARGs"),
    buildkit(
        "WorkdirRelativePath",
        "workdir-relative-path",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    ),
    buildkit("UndefinedVar", "undefined-var", "Variables should be defined before their use"),
    buildkit(
        "MultipleInstructionsDisallowed",
        "multiple-instructions-disallowed",
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    buildkit(
        "LegacyKeyValueFormat",
        "legacy-key-value-format",
        "Legacy key/value format with whitespace separator should not be used",
    ),
    buildkit("InvalidBaseImagePlatform", "", "Base image platform does not match expected target platform")
        .whole_file(),
    buildkit(
        "RedundantTargetPlatform",
        "redundant-target-platform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    buildkit(
        "SecretsUsedInArgOrEnv",
        "secrets-used-in-arg-or-env",
        "Sensitive data should not be used in the ARG or ENV commands",
    ),
    buildkit(
        "InvalidDefaultArgInFrom",
        "invalid-default-arg-in-from",
        "Default value for global ARG results in an empty or invalid base image name",
    )
    .whole_file(),
    buildkit(
        "FromPlatformFlagConstDisallowed",
        "from-platform-flag-const-disallowed",
        "FROM --platform flag should not use a constant value",
    ),
    buildkit(
        "CopyIgnoredFile",
        "copy-ignored-file",
        "Attempting to Copy file that is excluded by .dockerignore",
    ),
    buildkit(
        "InvalidDefinitionDescription",
        "invalid-definition-description",
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    )
    .found_by(description::invalid)
    .experimental(),
    buildkit("ExposeProtoCasing", "expose-proto-casing", "Protocol in EXPOSE instruction should be lowercase"),
    buildkit(
        "ExposeInvalidFormat",
        "expose-invalid-format",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    ),
    kiln(
        "AddInsteadOfCopy",
        "ADD of a plain file does what COPY does, and unpacks it one day when it is an archive",
        own::copying::add_of_a_plain_file,
    ),
    kiln(
        "ApkCacheKept",
        "`apk add` should not leave its package index in the layer",
        own::caches::apk,
    ),
    kiln(
        "AptInstallAsksQuestions",
        "`apt-get install` needs `-y`: nobody is there to answer",
        own::apt::asks_questions,
    ),
    kiln(
        "AptInstallWithoutUpdate",
        "`apt-get install` should update the package lists in the same RUN, or it works with stale ones",
        own::apt::install_without_update,
    ),
    kiln(
        "AptListsLeftBehind",
        "The package lists that `apt-get update` fetched should be removed in the same RUN",
        own::apt::lists_left_behind,
    ),
    kiln(
        "AptUpdateAlone",
        "`apt-get update` in a RUN of its own is found in the cache when a later install needs it fresh",
        own::apt::update_alone,
    ),
    kiln(
        "CdInsteadOfWorkdir",
        "A `cd` at the end of RUN is forgotten with it; WORKDIR stays",
        own::lost::cd,
    ),
    kiln(
        "ChownDoublesFiles",
        "`RUN chown -R` on copied files stores them a second time; COPY has --chown and --chmod",
        own::copying::chown_of_copied_files,
    ),
    kiln(
        "CopyBeforeDependencyInstall",
        "Copying all sources before dependencies are installed installs them anew after every change",
        own::copying::before_install,
    ),
    kiln(
        "DnfCacheKept",
        "`dnf install` and `yum install` should not leave their cache in the layer",
        own::caches::dnf,
    ),
    kiln(
        "ExportLost",
        "An `export` at the end of RUN is forgotten with it; ENV stays",
        own::lost::export,
    ),
    kiln(
        "LatestBaseTag",
        "A base image without a tag, or with `latest`, is another one tomorrow",
        own::base_tag::latest,
    ),
    kiln(
        "OnbuildMistake",
        "A trigger is looked at only when somebody builds on the image",
        own::onbuild::mistake,
    ),
    kiln(
        "PipCacheKept",
        "`pip install` should not leave its download cache in the layer",
        own::caches::pip,
    ),
    kiln(
        "PipeHidesFailure",
        "The shell looks at the last command of a pipe only: a failed download builds on",
        own::lost::piped_download,
    ),
    kiln("SudoInRun", "RUN is root already, and sudo changes what the step sees", own::lost::sudo),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_experimental_ones_are_known() {
        let mut names: Vec<_> = RULES.iter().map(|rule| rule.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RULES.len());
        assert!(rule("InvalidDefinitionDescription").unwrap().is_experimental);
        assert!(RULES.iter().all(|rule| rule.origin == Origin::BuildKit || rule.is_experimental));
        assert!(rule("stagenamecasing").is_none());
    }
}
