//! Flags of other builders that change nothing, or that kiln refuses with a word.

use clap::Args;

use super::parse_bool;

/// What docker's first builder knew and BuildKit ignores (FEATURES CL26, CL40), and what buildah can turn off that kiln
/// never does (CL51): taken, so that scripts go on working.
#[derive(Debug, Args)]
pub(crate) struct LegacyArgs {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = parse_bool)]
    pub compress: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = parse_bool)]
    pub rm: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = parse_bool)]
    pub force_rm: bool,
    /// Whether steps are cached; they are.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = parse_bool)]
    pub layers: bool,
    #[arg(long, hide = true)]
    pub isolation: Option<String>,
    #[arg(long, hide = true)]
    pub builder: Option<String>,
    /// kiln looks at digests only, as every builder today.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = parse_bool)]
    pub disable_content_trust: bool,
    /// buildx's policies on sources.
    #[arg(long, hide = true)]
    pub policy: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = parse_bool)]
    pub identity_label: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = parse_bool)]
    pub inherit_annotations: bool,
}

impl LegacyArgs {
    /// The policy that a build would have to heed: whoever ignores one takes what its author forbids.
    pub(crate) fn policy(&self) -> Option<&str> {
        let is_none = |text: &str| {
            text.split(',').all(|field| match field.split_once('=').unwrap_or((field, "true")) {
                ("disabled" | "reset", value) => parse_bool(value) == Ok(true),
                _ => false,
            })
        };
        self.policy.iter().map(String::as_str).find(|text| !is_none(text))
    }

    /// The flags that were given and change nothing although a user may think that they do.
    pub(crate) fn ignored(&self) -> Vec<&'static str> {
        [
            ("--layers=false", !self.layers),
            ("--isolation", self.isolation.as_deref().is_some_and(|value| value != "default")),
            ("--identity-label", self.identity_label),
            ("--inherit-annotations", self.inherit_annotations),
        ]
        .into_iter()
        .filter_map(|(flag, given)| given.then_some(flag))
        .collect()
    }
}
