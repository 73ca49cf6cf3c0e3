//! The planner by sentences, and whole plans as people read them.

mod epochs;
mod graphs;
mod instructions;
mod mounts;
mod outlined;
mod platforms;
mod stages;
mod variables;
mod warned;

use std::fmt::Write as _;

use insta::assert_snapshot;
use kiln_image::Platform;
use kiln_parser::Dockerfile;
use petgraph::Direction;
use petgraph::visit::EdgeRef as _;

use super::*;
use crate::explain::NoCacheBy;
use crate::graph::{CacheUse, ExecMountKind, FileAction, Op, Source, Vertex};

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

fn request() -> PlanRequest {
    PlanRequest::new(platform("linux/amd64"))
}

fn with_args(args: &[(&str, &str)]) -> PlanRequest {
    let build_args = args.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    PlanRequest { build_args, ..request() }
}

fn with_contexts(contexts: &[(&str, NamedContext)]) -> PlanRequest {
    let contexts = contexts.iter().map(|(name, context)| (name.to_string(), context.clone())).collect();
    PlanRequest { contexts, ..request() }
}

fn parse(text: &str) -> Dockerfile {
    kiln_parser::parse(text.as_bytes()).unwrap()
}

/// An image with one layer, PATH and CMD, and these triggers.
fn image(name: &str, triggers: &[&str]) -> BaseImage {
    let mut image = BaseImage::stand_in(name, &platform("linux/amd64"));
    image.config.created = Some("2020-01-01T00:00:00Z".into());
    image.config.config.cmd = Some(vec!["/bin/sh".into()]);
    image.config.config.on_build =
        (!triggers.is_empty()).then(|| triggers.iter().map(ToString::to_string).collect());
    image
}

/// Plans with images of any name; `absent` is none, `onbuild` has triggers.
fn plan_with(text: &str, request: &PlanRequest) -> Result<Plan, PlanError> {
    plan(&parse(text), request, &mut |name, _| match name.familiar().as_str() {
        "absent:latest" => Err("not found".into()),
        "onbuild:latest" => Ok(image("onbuild", &["COPY . /app", "RUN make"])),
        "curious:latest" => Ok(image("curious", &["RUN --mount=type=secret,id=npm cat /run/secrets/npm"])),
        "broken:latest" => Ok(image("broken", &["RUNN x"])),
        name => Ok(image(name, &[])),
    })
}

fn planned(text: &str) -> Plan {
    plan_with(text, &request()).unwrap()
}

fn error(text: &str) -> PlanError {
    plan_with(text, &request()).unwrap_err()
}

/// The error with its line and hint, as a person reads it.
fn told(error: &PlanError) -> String {
    let line = error.span().map(|span| format!("line {}: ", span.line)).unwrap_or_default();
    let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    format!("{line}{error}{hint}")
}

fn history(plan: &Plan) -> Vec<&str> {
    plan.config.history[plan.base_history..].iter().map(|entry| entry.created_by.as_str()).collect()
}

fn env(plan: &Plan) -> Vec<&str> {
    plan.config.config.env.iter().flatten().map(String::as_str).collect()
}

/// The environment of the last RUN.
fn run_env(plan: &Plan) -> Vec<&str> {
    let runs = plan.graph.node_weights().filter_map(|vertex| match &vertex.op {
        Op::Exec(exec) => Some(exec),
        _ => None,
    });
    runs.last().unwrap().env.iter().map(String::as_str).collect()
}

fn warnings(text: &str) -> Vec<String> {
    planned(text).warnings.into_iter().map(|w| format!("{} {}: {}", w.span.line, w.rule, w.message)).collect()
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.graph.node_weights().map(|vertex| vertex.name.as_str()).collect()
}

/// The graph in order of its making, then what the image says.
fn render(plan: &Plan) -> String {
    let mut out = String::new();
    for id in plan.graph.node_indices() {
        let vertex = &plan.graph[id];
        let mut inputs: Vec<_> = plan.graph.edges_directed(id, Direction::Outgoing).collect();
        inputs.sort_by_key(|edge| edge.weight().0);
        let inputs: Vec<String> = inputs.iter().map(|edge| format!("#{}", edge.target().index())).collect();
        let inputs = if inputs.is_empty() { String::new() } else { format!("  <- {}", inputs.join(" ")) };
        _ = writeln!(out, "#{} {}{inputs}", id.index(), vertex.name);
        render_op(vertex, &mut out);
    }
    _ = writeln!(out, "result #{} for {}", plan.result.index(), plan.platform);
    let config = &plan.config.config;
    _ = writeln!(out, "env {:?}", env(plan));
    for (key, value) in [("cwd", &config.working_dir), ("user", &config.user)] {
        if !value.is_empty() {
            _ = writeln!(out, "{key} {value}");
        }
    }
    for (key, value) in [("entrypoint", &config.entrypoint), ("cmd", &config.cmd)] {
        if let Some(value) = value {
            _ = writeln!(out, "{key} {value:?}");
        }
    }
    for entry in &plan.config.history[plan.base_history..] {
        let empty = if entry.empty_layer { "(no layer) " } else { "" };
        _ = writeln!(out, "history {empty}{}", entry.created_by);
    }
    out
}

fn render_op(vertex: &Vertex, out: &mut String) {
    match &vertex.op {
        Op::Source(Source::Scratch) => _ = writeln!(out, "   scratch"),
        Op::Source(Source::Image { reference, .. }) => _ = writeln!(out, "   image {reference}"),
        Op::Source(Source::Context { name }) => _ = writeln!(out, "   context {name}"),
        Op::Source(source) => _ = writeln!(out, "   {source:?}"),
        Op::Exec(exec) => {
            _ = writeln!(out, "   exec {:?} in {} env {:?}", exec.argv, exec.cwd, exec.env);
            for mount in &exec.mounts {
                let kind = match &mount.kind {
                    ExecMountKind::Bind { input, source, writable } => {
                        format!("bind {source} of input {}, writable {writable}", input.0)
                    }
                    kind => format!("{kind:?}"),
                };
                _ = writeln!(out, "   mount {:?} {kind}", mount.target);
            }
            for (name, script) in &exec.scripts {
                _ = writeln!(out, "   script {name} {script:?}");
            }
        }
        Op::File(file) => {
            for action in &file.actions {
                match action {
                    FileAction::MakeDir { path, mode, owner } => {
                        _ = writeln!(out, "   mkdir {path} {mode:o} {owner:?}");
                    }
                    FileAction::MakeFile { name, dest, contents, .. } => {
                        _ = writeln!(out, "   write {name} {contents:?} to {dest}");
                    }
                    FileAction::Copy { input, source, dest, .. } => {
                        _ = writeln!(out, "   copy {source} of input {} to {dest}", input.0);
                    }
                }
            }
        }
        Op::Merge => _ = writeln!(out, "   merge"),
        Op::Diff => _ = writeln!(out, "   diff"),
        Op::After => _ = writeln!(out, "   after"),
    }
}

fn rendered(text: &str) -> String {
    let digest = Digest::of(b"busybox:latest").to_string();
    render(&planned(text)).replace(&digest, "sha256:…")
}
