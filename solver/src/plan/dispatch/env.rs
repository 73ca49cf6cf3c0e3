//! ENV and LABEL: pairs whose keys and values are expanded, all with the variables as they were before the line
//! (FEATURES VX12).

use kiln_parser::KeyValue;

use super::Step;
use crate::plan::PlanError;
use crate::plan::history::Made;

/// Takes ENV.
pub(super) fn env(step: &mut Step<'_, '_>, pairs: &[KeyValue]) -> Result<(), PlanError> {
    let pairs = expand_pairs(step, pairs)?;
    let span = step.span();
    for (name, value) in &pairs {
        step.planner.warnings.secret_name("ENV", name, span);
        step.state.environment.set(name, value);
        step.state.config_env.set(name, value);
    }
    step.planner.record(step.state, text("ENV", &pairs), Made::Nothing, span)
}

/// Takes LABEL.
pub(super) fn label(step: &mut Step<'_, '_>, pairs: &[KeyValue]) -> Result<(), PlanError> {
    let pairs = expand_pairs(step, pairs)?;
    let text = text("LABEL", &pairs);
    step.state.image.config.labels.get_or_insert_default().extend(pairs);
    let span = step.span();
    step.planner.record(step.state, text, Made::Nothing, span)
}

fn expand_pairs(step: &mut Step<'_, '_>, pairs: &[KeyValue]) -> Result<Vec<(String, String)>, PlanError> {
    if pairs.iter().any(|pair| pair.is_legacy) {
        let span = step.span();
        let keyword = step.keyword().to_owned();
        step.planner.warnings.legacy_pair(&keyword, span);
    }
    pairs.iter().map(|pair| Ok((step.expand(&pair.key)?, step.expand(&pair.value)?))).collect()
}

fn text(keyword: &str, pairs: &[(String, String)]) -> String {
    let mut text = keyword.to_owned();
    for (key, value) in pairs {
        text.push(' ');
        text.push_str(key);
        text.push('=');
        text.push_str(value);
    }
    text
}
