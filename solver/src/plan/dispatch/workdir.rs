//! WORKDIR (FEATURES MI11).

use kiln_parser::Spanned;

use super::Step;
use crate::graph::{CacheUse, File, FileAction, Op, Owner, Vertex};
use crate::plan::history::Made;
use crate::plan::names::instruction_text;
use crate::plan::{PlanError, paths};

/// Of the directory and of those above it that are made.
const MODE: u32 = 0o755;

/// Takes WORKDIR: makes the directory, as a layer, unless it is the root.
pub(super) fn workdir(step: &mut Step<'_, '_>, path: &Spanned<String>) -> Result<(), PlanError> {
    let span = step.span();
    let path = step.expand(path)?;
    // Only the first one of a Dockerfile may stand on the base's unknown directory.
    if !std::mem::replace(&mut step.state.workdir_given, true) && !path.starts_with('/') {
        step.planner.warnings.relative_workdir(&path, span);
    }
    let directory = paths::workdir(&step.state.image.config.working_dir, &path);
    let text = format!("WORKDIR {directory}");
    step.state.image.config.working_dir.clone_from(&directory);
    if directory == "/" {
        return step.planner.record(step.state, text, Made::Nothing, span);
    }
    let user = &step.state.image.config.user;
    let owner = (!user.is_empty()).then(|| Owner(user.clone()));
    let make = FileAction::MakeDir { path: paths::clean(&directory), mode: MODE, owner };
    let shown = instruction_text(&step.instruction.original, &step.state.environment, &[]);
    let vertex = Vertex {
        op: Op::File(File { actions: vec![make] }),
        name: step.state.names.next(&shown, step.author),
        span: Some(span),
        created_by: text.clone(),
        cache: CacheUse::Any,
        platform: step.state.platform.clone(),
    };
    step.state.root = step.planner.vertices.add(vertex, &[step.state.root]);
    step.planner.record(step.state, text, Made::Directory, span)
}
