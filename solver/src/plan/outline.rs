//! What a target can be told: its arguments, secrets, agents and caches (`--call=outline`; FEATURES CL34).

use std::collections::{BTreeMap, HashSet};

use kiln_parser::{Span, lint};

use super::arguments::GlobalArgs;
use super::planner::Planner;
use super::stages::{StageIndex, Stages};

/// The parameters of a target, each list in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target's name; empty for a stage without one.
    pub name: String,
    /// What the comment above its FROM says of it.
    pub description: Option<String>,
    /// Build arguments that have an effect.
    pub args: Vec<OutlineArg>,
    /// Secrets that steps mount.
    pub secrets: Vec<OutlineMount>,
    /// Agents that steps mount.
    pub ssh: Vec<OutlineMount>,
    /// Caches that steps mount.
    pub caches: Vec<OutlineMount>,
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// What the comment above its ARG says of it.
    pub description: Option<String>,
    /// Its value in this build; `None` where it has none.
    pub value: Option<String>,
    /// Its ARG instruction.
    pub span: Span,
}

/// Something that a RUN mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineMount {
    /// Its id.
    pub id: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// The RUN.
    pub span: Span,
}

/// What the planner sees of it on its way.
#[derive(Debug, Default)]
pub(super) struct Notes {
    args: Vec<(StageIndex, NotedArg)>,
    secrets: Vec<OutlineMount>,
    ssh: Vec<OutlineMount>,
    caches: Vec<OutlineMount>,
}

#[derive(Debug)]
enum NotedArg {
    /// Declared with a value of its own.
    Own(OutlineArg),
    /// Declared, with what it is above the first FROM.
    Global(String),
}

impl Notes {
    pub(super) fn arg(&mut self, stage: StageIndex, arg: OutlineArg) {
        self.args.push((stage, NotedArg::Own(arg)));
    }

    pub(super) fn global_arg(&mut self, stage: StageIndex, name: &str) {
        self.args.push((stage, NotedArg::Global(name.to_owned())));
    }

    pub(super) fn secret(&mut self, id: &str, required: bool, span: Span) {
        add(&mut self.secrets, id, required, span);
    }

    pub(super) fn ssh(&mut self, id: &str, required: bool, span: Span) {
        add(&mut self.ssh, id, required, span);
    }

    pub(super) fn cache(&mut self, id: &str, span: Span) {
        add(&mut self.caches, id, false, span);
    }

    /// Puts together what was noted while `target` was planned.
    pub(super) fn into_outline(
        self,
        needed: &[StageIndex],
        target: StageIndex,
        planner: &Facts<'_>,
    ) -> Outline {
        let stage = planner.stages.get(target).stage;
        let mut args: BTreeMap<String, OutlineArg> = BTreeMap::new();
        // Where stages differ, the target's own word counts.
        let rank = |index: &StageIndex| (*index != target, std::cmp::Reverse(*index));
        let mut order = needed.to_vec();
        order.sort_by_key(rank);
        let mut globals = Vec::new();
        for index in order {
            globals.extend(planner.stages.get(index).used_args.iter().cloned());
            for (_, noted) in self.args.iter().rev().filter(|(stage, _)| *stage == index) {
                match noted {
                    NotedArg::Own(arg) => _ = args.entry(arg.name.clone()).or_insert_with(|| arg.clone()),
                    NotedArg::Global(name) => globals.push(name.clone()),
                }
            }
        }
        // A global argument brings those that its default uses.
        let mut seen = HashSet::new();
        while let Some(name) = globals.pop() {
            let Some(definition) = planner.args.definition(&name) else { continue };
            if !seen.insert(name.clone()) {
                continue;
            }
            globals.extend(definition.uses.iter().cloned());
            args.entry(name.clone()).or_insert_with(|| OutlineArg {
                description: definition.description.clone(),
                value: planner.args.get(&name).map(str::to_owned),
                span: definition.span,
                name,
            });
        }
        let mut args: Vec<_> = args.into_values().collect();
        args.sort_by_key(|arg| arg.span.start);
        let name = stage.name.as_ref().map_or("", |name| name.value.as_str());
        Outline {
            name: name.to_owned(),
            description: lint::description(&stage.comment, name).map(str::to_owned),
            args,
            secrets: sorted(self.secrets),
            ssh: sorted(self.ssh),
            caches: sorted(self.caches),
        }
    }
}

/// What an outline needs to know beside the notes.
pub(super) struct Facts<'a> {
    pub(super) stages: &'a Stages<'a>,
    pub(super) args: &'a GlobalArgs,
}

impl<'a> Facts<'a> {
    pub(super) fn of(planner: &'a Planner<'a>) -> Self {
        Self { stages: &planner.stages, args: &planner.args }
    }
}

fn add(list: &mut Vec<OutlineMount>, id: &str, required: bool, span: Span) {
    if list.iter().all(|known| known.id != id) {
        list.push(OutlineMount { id: id.to_owned(), required, span });
    }
}

fn sorted(mut list: Vec<OutlineMount>) -> Vec<OutlineMount> {
    list.sort_by_key(|mount| mount.span.start);
    list
}
