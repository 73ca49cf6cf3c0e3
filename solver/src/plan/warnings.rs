//! What the planner notices (BuildKit's lint rules by name; FEATURES LI).

use std::collections::HashSet;

use kiln_image::Platform;
use kiln_parser::{Span, Warning};

/// Words that make a variable's name look like a secret's (FEATURES AS24).
const SECRET_WORDS: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
/// Words that say it is none after all.
const PUBLIC_WORDS: [&str; 3] = ["public", "file", "version"];

/// The warnings so far.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    warnings: Vec<Warning>,
    /// Rule, first line and message of what is known, the parser's warnings among them: each is told once.
    known: HashSet<(&'static str, u32, String)>,
}

impl Warnings {
    /// Warnings beside those that the parser gave already.
    pub(super) fn beside(parsed: &[Warning]) -> Self {
        let known = parsed.iter().map(|w| (w.rule, w.span.line, w.message.clone())).collect();
        Self { warnings: Vec::new(), known }
    }

    pub(super) fn into_vec(self) -> Vec<Warning> {
        self.warnings
    }

    /// `word` is what is meant in the instruction; an empty one is all of it.
    fn add(&mut self, rule: &'static str, message: String, span: Span, word: &str) {
        let word = Some(word.to_owned()).filter(|word| !word.is_empty());
        self.push(Warning { rule, message, span, word, judged_by: None });
    }

    fn push(&mut self, warning: Warning) {
        if self.known.insert((warning.rule, warning.span.line, warning.message.clone())) {
            self.warnings.push(warning);
        }
    }

    pub(super) fn undefined_var(&mut self, name: &str, closest: Option<&str>, span: Span) {
        let hint = closest.map(|name| format!(" (did you mean ${name}?)")).unwrap_or_default();
        self.add(
            "UndefinedVar",
            format!("Usage of undefined variable '${name}'{hint}"),
            span,
            &format!("${name}"),
        );
    }

    pub(super) fn undefined_arg_in_from(&mut self, name: &str, closest: Option<&str>, span: Span) {
        let hint = closest.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
        self.add(
            "UndefinedArgInFrom",
            format!("FROM argument '{name}' is not declared{hint}"),
            span,
            &format!("${name}"),
        );
    }

    pub(super) fn invalid_default_arg_in_from(&mut self, base: &str, span: Span) {
        let message = format!("Default value for ARG {base} results in empty or invalid base image name");
        self.add("InvalidDefaultArgInFrom", message, span, base);
    }

    pub(super) fn redundant_target_platform(&mut self, written: &str, span: Span) {
        let message = format!(
            "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
        );
        self.add("RedundantTargetPlatform", message, span, written);
    }

    pub(super) fn constant_platform(&mut self, platform: &str, span: Span) {
        let message = format!("FROM --platform flag should not use constant value {platform:?}");
        self.add("FromPlatformFlagConstDisallowed", message, span, platform);
    }

    pub(super) fn base_image_platform(
        &mut self,
        image: &str,
        expected: &Platform,
        actual: &Platform,
        span: Span,
    ) {
        let message = format!(
            "Base image {image} was pulled with platform \"{actual}\", expected \"{expected}\" for current build"
        );
        self.add("InvalidBaseImagePlatform", message, span, image);
    }

    /// `keyword` is `ENV` or `LABEL` as written.
    pub(super) fn legacy_pair(&mut self, keyword: &str, span: Span) {
        let message = format!(
            "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
        );
        self.add("LegacyKeyValueFormat", message, span, "");
    }

    /// `verb` is `Copy` or `Add`.
    pub(super) fn ignored_source(&mut self, verb: &str, path: &str, span: Span) {
        let message = format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore");
        self.add("CopyIgnoredFile", message, span, path);
    }

    /// `instruction` is `ARG` or `ENV`.
    pub(super) fn secret_name(&mut self, instruction: &str, name: &str, span: Span) {
        if looks_secret(name) {
            let message =
                format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})");
            self.add("SecretsUsedInArgOrEnv", message, span, name);
        }
    }

    pub(super) fn relative_workdir(&mut self, path: &str, span: Span) {
        let message =
            format!("Relative workdir {path:?} can have unexpected results if the base image changes");
        self.add("WorkdirRelativePath", message, span, path);
    }

    pub(super) fn shell_form(&mut self, keyword: &str, span: Span) {
        let message = format!(
            "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
        );
        self.add("JSONArgsRecommended", message, span, "");
    }

    /// `span` is the instruction that has no effect, `by` the one that takes its effect away.
    pub(super) fn given_again(&mut self, keyword: &str, span: Span, by: Span) {
        let message = format!(
            "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
        );
        let rule = "MultipleInstructionsDisallowed";
        self.push(Warning { rule, message, span, word: Some(keyword.to_owned()), judged_by: Some(by) });
    }

    pub(super) fn protocol_casing(&mut self, port: &str, span: Span) {
        let message = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
        self.add("ExposeProtoCasing", message, span, port);
    }

    pub(super) fn port_mapping(&mut self, port: &str, span: Span) {
        let message = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
        );
        self.add("ExposeInvalidFormat", message, span, port);
    }
}

fn looks_secret(name: &str) -> bool {
    let has =
        |words: &[&str]| name.split('_').any(|part| words.iter().any(|word| part.eq_ignore_ascii_case(word)));
    has(&SECRET_WORDS) && !has(&PUBLIC_WORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_make_a_name_look_secret() {
        for name in ["AWS_SECRET_ACCESS_KEY", "apikey", "AUTH", "github_token"] {
            assert!(looks_secret(name), "{name}");
        }
        for name in ["DB_PASS", "MONKEY", "TOKENIZER", "PUBLIC_KEY", "PASSWORD_FILE", "token_public"] {
            assert!(!looks_secret(name), "{name}");
        }
    }
}
