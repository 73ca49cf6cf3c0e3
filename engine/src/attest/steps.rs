//! The steps of a build as its provenance tells them: BuildKit's operations, in their JSON form (`solver/pb/ops.proto`).

use std::collections::HashMap;

use kiln_image::Platform;
use kiln_solver::git_url::redacted;
use kiln_solver::graph::{
    CopyOptions, Exec, ExecMount, ExecMountKind, FileAction, Graph, ModeChange, NetworkMode, Op, Source,
    VertexId,
};
use kiln_solver::solve::{inputs_of, needed};
use serde_json::{Map, Value, json};

use super::capture::Request;

/// The steps and where in the Dockerfile they stand.
pub(super) struct Steps {
    /// `id`, `op`, `inputs` of each; inputs before those that need them.
    pub(super) definition: Vec<Value>,
    /// By a step's id.
    pub(super) locations: Map<String, Value>,
}

impl Steps {
    /// All that `result` needs.
    pub(super) fn of(graph: &Graph, result: VertexId, request: &Request) -> Self {
        let order = needed(graph, &[result]);
        let ids: HashMap<VertexId, String> =
            order.iter().enumerate().map(|(index, vertex)| (*vertex, format!("step{index}"))).collect();
        let mut steps = Self { definition: Vec::with_capacity(order.len()), locations: Map::new() };
        for vertex in &order {
            let step = &graph[*vertex];
            let inputs: Vec<String> =
                inputs_of(graph, *vertex).iter().map(|input| format!("{}:0", ids[input])).collect();
            let id = &ids[vertex];
            if let Some(span) = step.span {
                let range = json!({"start": {"line": span.line}, "end": {"line": span.end_line}});
                steps.locations.insert(id.clone(), json!({"locations": [{"ranges": [range]}]}));
            }
            let op =
                json!({"Op": op(&step.op, request), "platform": platform(&step.platform), "constraints": {}});
            let mut json = json!({"id": id, "op": op});
            if !inputs.is_empty() {
                json["inputs"] = inputs.into();
            }
            steps.definition.push(json);
        }
        steps
    }
}

fn op(op: &Op, request: &Request) -> Value {
    match op {
        Op::Source(source) => json!({"source": {"identifier": identifier(source, request)}}),
        Op::Exec(exec) => json!({"exec": self::exec(exec)}),
        Op::File(file) => json!({"file": {"actions": file.actions.iter().map(action).collect::<Vec<_>>()}}),
        Op::Merge => json!({"merge": {}}),
        Op::After => json!({"after": {}}),
        Op::Diff => json!({"diff": {"lower": {"input": 0}, "upper": {"input": 1}}}),
    }
}

fn identifier(source: &Source, request: &Request) -> String {
    match source {
        Source::Scratch => "scratch".to_owned(),
        Source::Image { reference, manifest } => request.identifier(reference, manifest),
        Source::Context { name } => format!("local://{name}"),
        Source::Http { url, .. } => redacted(url),
        Source::Git(git) => {
            let remote = redacted(&git.remote);
            let address = remote.split_once("://").map_or(remote.as_str(), |(_, rest)| rest);
            match (git.reference.as_str(), git.subdir.as_str()) {
                ("", "") => format!("git://{address}"),
                (reference, "") => format!("git://{address}#{reference}"),
                (reference, subdir) => format!("git://{address}#{reference}:{subdir}"),
            }
        }
    }
}

fn exec(exec: &Exec) -> Value {
    let words = |words: &[String]| words.iter().map(|word| redacted(word)).collect::<Vec<_>>();
    // Proxies (`unkeyed_env`) are the machine's and not the build's.
    let mut meta = json!({"args": words(&exec.argv), "env": words(&exec.env), "cwd": exec.cwd});
    if !exec.user.is_empty() {
        meta["user"] = exec.user.as_str().into();
    }
    if !exec.hostname.is_empty() {
        meta["hostname"] = exec.hostname.as_str().into();
    }
    let mut mounts = vec![json!({"input": 0, "dest": "/", "output": 0})];
    mounts.extend(exec.mounts.iter().filter(|mount| !mount.target.is_empty()).map(mount));
    let mut json = json!({"meta": meta, "mounts": mounts});
    match exec.network {
        NetworkMode::Default => {}
        NetworkMode::Host => json["network"] = 1.into(),
        NetworkMode::None => json["network"] = 2.into(),
    }
    if exec.insecure {
        json["security"] = 1.into();
    }
    let in_environment = |mount: &ExecMount| match &mount.kind {
        ExecMountKind::Secret { id, env: Some(name), required, .. } => {
            Some(json!({"ID": id, "name": name, "optional": !required}))
        }
        _ => None,
    };
    let secrets: Vec<Value> = exec.mounts.iter().filter_map(in_environment).collect();
    if !secrets.is_empty() {
        json["secretenv"] = secrets.into();
    }
    json
}

fn mount(mount: &ExecMount) -> Value {
    let dest = &mount.target;
    match &mount.kind {
        ExecMountKind::Bind { input, source, writable } => {
            json!({"input": input.0, "selector": source, "dest": dest, "output": -1, "readonly": !writable})
        }
        ExecMountKind::Cache { id, read_only, .. } => {
            json!({"input": -1, "dest": dest, "output": -1, "readonly": read_only, "mountType": 3,
                   "cacheOpt": {"ID": id}})
        }
        ExecMountKind::Tmpfs { size, .. } => {
            json!({"input": -1, "dest": dest, "output": -1, "mountType": 4,
                   "TmpfsOpt": {"size": size.unwrap_or_default()}})
        }
        ExecMountKind::Secret { id, required, mode, uid, gid, .. } => {
            json!({"input": -1, "dest": dest, "output": -1, "mountType": 1,
                   "secretOpt": {"ID": id, "uid": uid, "gid": gid, "mode": mode, "optional": !required}})
        }
        ExecMountKind::Ssh { id, required, mode, uid, gid } => {
            json!({"input": -1, "dest": dest, "output": -1, "mountType": 2,
                   "SSHOpt": {"ID": id, "uid": uid, "gid": gid, "mode": mode, "optional": !required}})
        }
    }
}

fn action(action: &FileAction) -> Value {
    match action {
        FileAction::MakeDir { path, mode, .. } => {
            json!({"input": 0, "secondaryInput": -1, "output": 0,
                   "Action": {"mkdir": {"path": path, "mode": mode, "makeParents": true}}})
        }
        FileAction::MakeFile { name, dest, options, .. } => {
            // What is in it stands in the Dockerfile.
            let path = if dest.ends_with('/') { format!("{dest}{name}") } else { dest.clone() };
            json!({"input": 0, "secondaryInput": -1, "output": 0,
                   "Action": {"mkfile": {"path": path, "mode": mode(options)}}})
        }
        FileAction::Copy { input, source, dest, wildcard, options } => {
            let mut copy = json!({
                "src": source, "dest": dest, "mode": mode(options), "createDestPath": true,
                "allowWildcard": wildcard, "attemptUnpackDockerCompatibility": options.unpack,
            });
            if let Some(owner) = &options.owner {
                copy["owner"] = owner.0.as_str().into();
            }
            json!({"input": 0, "secondaryInput": input.0, "output": 0, "Action": {"copy": copy}})
        }
    }
}

/// -1 is the source's own.
fn mode(options: &CopyOptions) -> Value {
    match &options.mode {
        Some(ModeChange::Octal(bits)) => (*bits).into(),
        Some(ModeChange::Symbolic(text)) => text.as_str().into(),
        None => (-1).into(),
    }
}

fn platform(platform: &Platform) -> Value {
    let mut json = json!({"Architecture": platform.architecture, "OS": platform.os});
    if !platform.variant.is_empty() {
        json["Variant"] = platform.variant.as_str().into();
    }
    json
}

#[cfg(test)]
mod tests {
    use kiln_parser::Span;
    use kiln_solver::graph::{CacheUse, InputIndex, Vertex};

    use super::*;

    fn vertex(op: Op, line: u32) -> Vertex {
        let span = Span { line, end_line: line, ..Span::default() };
        let (name, created_by) = (String::new(), String::new());
        Vertex { op, name, span: Some(span), created_by, cache: CacheUse::Any, platform: Platform::host() }
    }

    fn run(words: &[&str]) -> Exec {
        let texts = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Exec {
            argv: texts(words),
            env: texts(&["A=b"]),
            build_args: Vec::new(),
            unkeyed_env: texts(&["HTTPS_PROXY=http://me:CANARY@proxy"]),
            cwd: "/".to_owned(),
            user: String::new(),
            mounts: vec![ExecMount {
                target: String::new(),
                kind: ExecMountKind::Secret {
                    id: "token".to_owned(),
                    env: Some("TOKEN".to_owned()),
                    required: true,
                    mode: 0o400,
                    uid: 0,
                    gid: 0,
                },
                no_exec: false,
                of_user: false,
            }],
            network: NetworkMode::None,
            insecure: false,
            capabilities: kiln_sandbox::Capabilities::default(),
            security_options: kiln_sandbox::SecurityOptions::default(),
            hostname: String::new(),
            devices: Vec::new(),
            host_devices: Vec::new(),
            groups: Default::default(),
            volumes: Vec::new(),
            extra_hosts: Vec::new(),
            shm_bytes: None,
            ulimits: Vec::new(),
            scripts: Vec::new(),
        }
    }

    #[test]
    fn steps_stand_behind_what_they_start_from_and_show_no_password() {
        let mut graph = Graph::new();
        let step = run(&["curl", "https://me:CANARY@host/f"]);
        let step = graph.add_node(vertex(Op::Exec(Box::new(step)), 2));
        let base = graph.add_node(vertex(Op::Source(Source::Scratch), 1));
        graph.add_edge(step, base, InputIndex(0));
        let steps = Steps::of(&graph, step, &Request::default());
        assert_eq!(steps.definition[1]["inputs"], json!(["step0:0"]));
        let exec = &steps.definition[1]["op"]["Op"]["exec"];
        assert_eq!(exec["secretenv"], json!([{"ID": "token", "name": "TOKEN", "optional": false}]));
        assert_eq!((&exec["network"], &exec["mounts"][0]["dest"]), (&json!(2), &json!("/")));
        assert_eq!(steps.locations["step1"]["locations"][0]["ranges"][0]["start"]["line"], 2);
        assert!(!Value::from(steps.definition).to_string().contains("CANARY"));
    }
}
