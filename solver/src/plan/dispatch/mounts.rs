//! `RUN --mount` (FEATURES RN16–RN32).

use std::borrow::Cow;
use std::collections::HashSet;

use kiln_parser::{Dockerfile, InstructionKind, Mount, MountKind, MountProblem, Span, Spanned};

use super::Step;
use crate::graph::{ExecMount, ExecMountKind, InputIndex, VertexId};
use crate::plan::arguments::target_platform;
use crate::plan::bases::build_context;
use crate::plan::names::Author;
use crate::plan::stages::StageNumbers;
use crate::plan::{PlanError, paths};

/// Prefixed to ids of cache mounts, so that builds that do not trust each other share none (FEATURES AS16).
const CACHE_NAMESPACE_ARG: &str = "BUILDKIT_CACHE_MOUNT_NS";
/// Where secrets are shown.
const SECRETS: &str = "/run/secrets";
/// Where agents are shown; a number follows.
const AGENTS: &str = "/run/buildkit/ssh_agent";
/// The agent that is meant without an id.
const DEFAULT_AGENT: &str = "default";
const CACHE_MODE: u32 = 0o755;
const SECRET_MODE: u32 = 0o400;
const AGENT_MODE: u32 = 0o600;

/// All mounts of a RUN.
pub(super) struct Mounts {
    pub(super) mounts: Vec<ExecMount>,
    /// The root first, then what is mounted.
    pub(super) inputs: Vec<VertexId>,
    /// Where the first agent is.
    pub(super) agent_socket: Option<String>,
    /// Variables that hold secrets.
    pub(super) secret_variables: Vec<String>,
}

/// Resolves the mounts of a RUN: what every RUN has, then what it says itself.
pub(super) fn mounts(step: &mut Step<'_, '_>, given: &[Spanned<Mount>]) -> Result<Mounts, PlanError> {
    let mut mounts = Mounts {
        mounts: Vec::with_capacity(given.len() + step.planner.request.mounts.len()),
        inputs: vec![step.state.root],
        agent_socket: None,
        secret_variables: Vec::new(),
    };
    let mut agents = 0;
    let request = step.planner.request;
    let of_every_run = request.mounts.iter().map(|mount| (mount, step.span()));
    let own = given.iter().map(|mount| (&mount.value, step.place(mount.span)));
    for (mount, span) in of_every_run.chain(own).collect::<Vec<_>>() {
        let mount = expanded(step, mount, span)?;
        let target = mount.target.clone().unwrap_or_default();
        let (no_exec, of_user) = (mount.no_exec, mount.of_user);
        // Whatever the type, what `from` names must be there; only two of them show it.
        let from = match mount.from.as_deref().filter(|from| !from.is_empty()) {
            Some(from) => Some(origin(step, from, &target, span)?),
            None => None,
        };
        let (target, kind) = match &mount.kind {
            MountKind::Bind { source, writable } => {
                let target = absolute(step, &target, span)?;
                let input = mounts.input(from.unwrap_or_else(|| context(step)));
                let source = paths::join("/", source);
                (target, ExecMountKind::Bind { input, source, writable: *writable })
            }
            MountKind::Cache { id, source, sharing, read_only, mode, uid, gid } => {
                let id = match id.as_deref().filter(|id| !id.is_empty()) {
                    Some(id) => id.to_owned(),
                    None => paths::clean(&target),
                };
                step.planner.notes.cache(&id, span);
                let namespace = step.planner.request.build_args.get(CACHE_NAMESPACE_ARG);
                let mut id = format!("{}/{id}", namespace.map_or("", String::as_str));
                let target = absolute(step, &target, span)?;
                let source = paths::join("/", source);
                let is_shaped =
                    source == "/" && (mode.is_some() || uid.is_some() || gid.is_some() || of_user);
                // BuildKit makes the directory that is shaped in the seed's root and mounts that alone, and it counts
                // as a seed of its own: caches of other shapes are other caches.
                let seed = from.filter(|_| !is_shaped).map(|from| mounts.input(from));
                // Who the user is comes to light when the step runs.
                if is_shaped && !of_user {
                    let (mode, uid, gid) =
                        (permissions(*mode, CACHE_MODE), uid.unwrap_or(0), gid.unwrap_or(0));
                    id.push_str(&format!(":{mode:o}:{uid}:{gid}"));
                }
                let kind = ExecMountKind::Cache {
                    id,
                    seed,
                    source,
                    sharing: *sharing,
                    read_only: *read_only,
                    mode: permissions(*mode, CACHE_MODE),
                    uid: uid.unwrap_or(0),
                    gid: gid.unwrap_or(0),
                };
                (target, kind)
            }
            MountKind::Tmpfs { size, read_only } => {
                (absolute(step, &target, span)?, ExecMountKind::Tmpfs { size: *size, read_only: *read_only })
            }
            MountKind::Secret { id, env, required, mode, uid, gid } => {
                let id = match id.as_deref().filter(|id| !id.is_empty()) {
                    Some(id) => id.to_owned(),
                    None if target.is_empty() => return Err(PlanError::SecretWithoutId { span }),
                    None => paths::base_name(&target).to_owned(),
                };
                refuse_unnamed(step, "secret", &id, span)?;
                step.planner.notes.secret(&id, *required, span);
                let env = env.clone().filter(|name| !name.is_empty());
                let target = match (target.is_empty(), &env) {
                    (true, Some(_)) => String::new(),
                    (true, None) => paths::join(SECRETS, paths::base_name(&id)),
                    (false, _) => absolute(step, &target, span)?,
                };
                mounts.secret_variables.extend(env.clone());
                let kind = ExecMountKind::Secret {
                    id,
                    env,
                    required: *required,
                    mode: permissions(*mode, SECRET_MODE),
                    uid: uid.unwrap_or(0),
                    gid: gid.unwrap_or(0),
                };
                (target, kind)
            }
            MountKind::Ssh { id, required, mode, uid, gid } => {
                let id = match id.as_deref().filter(|id| !id.is_empty()) {
                    Some(id) => id.to_owned(),
                    None => DEFAULT_AGENT.to_owned(),
                };
                refuse_unnamed(step, "ssh agent", &id, span)?;
                step.planner.notes.ssh(&id, *required, span);
                let target = match target.is_empty() {
                    true => format!("{AGENTS}.{agents}"),
                    false => absolute(step, &target, span)?,
                };
                agents += 1;
                mounts.agent_socket.get_or_insert_with(|| target.clone());
                let kind = ExecMountKind::Ssh {
                    id,
                    required: *required,
                    mode: permissions(*mode, AGENT_MODE),
                    uid: uid.unwrap_or(0),
                    gid: gid.unwrap_or(0),
                };
                (target, kind)
            }
        };
        mounts.mounts.push(ExecMount { target, kind, no_exec, of_user });
    }
    Ok(mounts)
}

/// The mount with its variables replaced: any value may have some, `type` and `mode` as well.
fn expanded<'m>(step: &mut Step<'_, '_>, mount: &'m Mount, span: Span) -> Result<Cow<'m, Mount>, PlanError> {
    if !mount.written.contains(['$', '\'', '"', step.escape()]) {
        return Ok(Cow::Borrowed(mount));
    }
    let mount = mount.expanded(|value| step.expand_text(value, span).map_err(Unusable::Value));
    mount.map(Cow::Owned).map_err(|unusable| match unusable {
        Unusable::Mount(problem) => PlanError::InvalidMount { problem, span },
        Unusable::Value(error) => error,
    })
}

/// Why a mount with variables is none.
enum Unusable {
    /// What the variables' values make of it.
    Mount(MountProblem),
    /// The variables cannot be replaced.
    Value(PlanError),
}

impl From<MountProblem> for Unusable {
    fn from(problem: MountProblem) -> Self {
        Self::Mount(problem)
    }
}

impl Mounts {
    /// The input that `vertex` is. The root itself may be mounted as well; what is mounted twice is one input.
    fn input(&mut self, vertex: VertexId) -> InputIndex {
        let known = self.inputs[1..].iter().position(|input| *input == vertex);
        InputIndex(
            known.unwrap_or_else(|| {
                self.inputs.push(vertex);
                self.inputs.len() - 2
            }) + 1,
        )
    }
}

/// What a mount without `from` shows.
fn context(step: &mut Step<'_, '_>) -> VertexId {
    build_context(target_platform(step.planner.request), &mut step.planner.vertices)
}

/// What `from` names.
fn origin(step: &mut Step<'_, '_>, from: &str, target: &str, span: Span) -> Result<VertexId, PlanError> {
    let root = step.planner.root_of(from, StageNumbers::NotAllowed, step.state.index, span)?;
    let later = || PlanError::MountFromLaterStage { from: from.to_owned(), target: target.to_owned(), span };
    Ok(root.ok_or_else(later)?.vertex())
}

/// A mount's target beneath WORKDIR, which it is itself where none is given. The root itself cannot be mounted over.
fn absolute(step: &Step<'_, '_>, target: &str, span: Span) -> Result<String, PlanError> {
    let absolute = match target.starts_with('/') {
        true => paths::clean(target),
        false => paths::join(&step.state.directory(), target),
    };
    if absolute == "/" {
        return Err(PlanError::InvalidMountTarget { target: absolute, span });
    }
    Ok(absolute)
}

/// What a mount's `mode` says of permissions; the bits above them are passed over, as BuildKit does.
fn permissions(mode: Option<u32>, default: u32) -> u32 {
    mode.unwrap_or(default) & 0o777
}

/// A base image's trigger is code that nobody may have read: it gets only the secrets that the Dockerfile names itself.
fn refuse_unnamed(step: &Step<'_, '_>, kind: &'static str, id: &str, span: Span) -> Result<(), PlanError> {
    let named = || step.planner.named_secrets.contains(&(kind, id.to_owned()));
    if step.author == Author::BaseImage && !named() {
        return Err(PlanError::TriggerWantsSecret { kind, id: id.to_owned(), span });
    }
    Ok(())
}

/// The ids of secrets and agents in the file's own RUN instructions, and in what every RUN mounts.
pub(in crate::plan) fn named_secrets(
    dockerfile: &Dockerfile,
    mounts: &[Mount],
) -> HashSet<(&'static str, String)> {
    let instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let runs = instructions.filter_map(|instruction| match &instruction.kind {
        InstructionKind::Run(run) => Some(run),
        InstructionKind::Onbuild(onbuild) => match onbuild.instruction.as_ref().map(|one| &one.kind) {
            Some(InstructionKind::Run(run)) => Some(run),
            _ => None,
        },
        _ => None,
    });
    let mut named = HashSet::new();
    for mount in mounts.iter().chain(runs.flat_map(|run| &run.mounts).map(|mount| &mount.value)) {
        match &mount.kind {
            MountKind::Secret { id, .. } => {
                let id = id.clone().filter(|id| !id.is_empty());
                let id = id.or_else(|| mount.target.as_deref().map(|t| paths::base_name(t).to_owned()));
                named.extend(id.map(|id| ("secret", id)));
            }
            MountKind::Ssh { id, .. } => {
                let id = id.clone().filter(|id| !id.is_empty());
                named.insert(("ssh agent", id.unwrap_or_else(|| DEFAULT_AGENT.into())));
            }
            _ => {}
        }
    }
    named
}
