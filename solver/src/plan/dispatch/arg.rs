//! ARG (FEATURES AS2–AS7).

use kiln_parser::{ArgPair, lint};

use super::Step;
use crate::plan::arguments::NEVER_IN_ENVIRONMENT;
use crate::plan::history::Made;
use crate::plan::{OutlineArg, PlanError};

/// Takes ARG. A later name of the line sees the earlier ones; an unneeded default is not even looked at.
pub(super) fn arg(step: &mut Step<'_, '_>, pairs: &[ArgPair]) -> Result<(), PlanError> {
    let mut text = String::from("ARG");
    for pair in pairs {
        let name = &pair.name.value;
        let span = step.span();
        step.planner.warnings.secret_name("ARG", name, span);
        step.planner.declared.insert(name.clone());
        let given = step.planner.request.build_args.get(name).cloned();
        let inherits = given.is_none() && pair.default.is_none();
        let value = match (given, &pair.default) {
            (Some(value), _) => Some(value),
            (None, Some(default)) => Some(step.expand(default)?),
            (None, None) => step.planner.args.get(name).map(str::to_owned),
        };
        if inherits && value.is_some() {
            step.planner.notes.global_arg(step.state.index, name);
        } else {
            let description = lint::description(&step.instruction.comment, name).map(str::to_owned);
            let noted = OutlineArg { name: name.clone(), description, value: value.clone(), span };
            step.planner.notes.arg(step.state.index, noted);
        }
        text.push(' ');
        text.push_str(name);
        if let Some(value) = &value {
            text.push('=');
            text.push_str(value);
            if !NEVER_IN_ENVIRONMENT.contains(&name.as_str()) {
                step.state.environment.set(name, value);
            }
        }
        step.state.args.declare(name, value);
    }
    let span = step.span();
    step.planner.record(step.state, text, Made::Nothing, span)
}
