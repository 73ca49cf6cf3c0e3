//! RUN (FEATURES RN, LX30–LX32).

use kiln_parser::{Command, Heredoc, Run, RunNetwork, RunSecurity};

use super::{Step, mounts};
use crate::graph::{Exec, ExecDevice, NetworkMode, Op, Vertex};
use crate::plan::PlanError;
use crate::plan::history::Made;
use crate::plan::names::{instruction_text, summary};
use crate::plan::paths;

/// Where scripts with `#!` are shown to the step.
const SCRIPTS: &str = "/dev/pipes";
/// BuildKit's host name of steps; `BUILDKIT_SANDBOX_HOSTNAME` changes it.
const HOSTNAME: &str = "buildkitsandbox";
const HOSTNAME_ARG: &str = "BUILDKIT_SANDBOX_HOSTNAME";

/// Takes RUN.
pub(super) fn run(step: &mut Step<'_, '_>, run: &Run) -> Result<(), PlanError> {
    let span = step.span();
    let cache = step.cache_use()?;
    let network = network(step, run)?;
    let insecure = insecure(step, run)?;
    let mounts = mounts::mounts(step, &run.mounts)?;
    let Words { argv, scripts, shown } = words(step, run);
    if argv.is_empty() {
        return Err(PlanError::NoCommand { span });
    }

    let environment = &step.state.environment;
    let mut created_by = String::from("RUN ");
    let args = step.state.args.in_effect(environment);
    let build_args = args.iter().filter_map(|arg| Some(arg.split_once('=')?.0.to_owned())).collect();
    if !args.is_empty() {
        created_by.push_str(&format!("|{} {} ", args.len(), args.join(" ")));
    }
    created_by.push_str(&argv.join(" "));
    step.planner.record(step.state, created_by.clone(), Made::Layer, span)?;

    let environment = &step.state.environment;
    let mut env = environment.to_pairs();
    if let Some(socket) = &mounts.agent_socket
        && environment.get("SSH_AUTH_SOCK").is_none()
    {
        env.push(format!("SSH_AUTH_SOCK={socket}"));
    }
    let proxies = step.planner.proxies.iter().filter(|(name, _)| environment.get(name).is_none());
    let unkeyed_env = proxies.map(|(name, value)| format!("{name}={value}")).collect();
    let masked: Vec<&str> = mounts.secret_variables.iter().map(String::as_str).collect();
    let shown = match shown {
        None => instruction_text(&step.instruction.original, environment, &masked),
        Some(script) => {
            format!("{} ({script})", instruction_text(&step.instruction.original, environment, &masked))
        }
    };
    let request = step.planner.request;
    let exec = Exec {
        argv,
        env,
        build_args,
        unkeyed_env,
        cwd: step.state.directory(),
        user: step.state.image.config.user.clone(),
        mounts: mounts.mounts,
        network,
        insecure,
        capabilities: request.capabilities,
        security_options: request.security_options,
        hostname: request.build_args.get(HOSTNAME_ARG).map_or(HOSTNAME, String::as_str).to_owned(),
        devices: request
            .devices
            .iter()
            .chain(run.devices.iter().map(|device| &device.value))
            .map(|device| ExecDevice { wanted: device.clone(), found: Vec::new() })
            .collect(),
        host_devices: request.host_devices.clone(),
        groups: request.groups.clone(),
        volumes: request.volumes.clone(),
        extra_hosts: request.extra_hosts.clone(),
        shm_bytes: request.shm_bytes.filter(|bytes| *bytes > 0),
        ulimits: request.ulimits.clone(),
        scripts,
    };
    let vertex = Vertex {
        op: Op::Exec(Box::new(exec)),
        name: step.state.names.next(&shown, step.author),
        span: Some(span),
        created_by,
        cache,
        platform: step.state.platform.clone(),
    };
    step.state.root = step.planner.vertices.add(vertex, &mounts.inputs);
    Ok(())
}

/// What is executed.
struct Words {
    argv: Vec<String>,
    scripts: Vec<(String, String)>,
    /// A heredoc's first line.
    shown: Option<String>,
}

fn words(step: &Step<'_, '_>, run: &Run) -> Words {
    let line = match &run.command {
        Command::Exec(argv) => return Words { argv: argv.clone(), scripts: Vec::new(), shown: None },
        Command::Shell(line) => line,
    };
    let mut scripts = Vec::new();
    let mut shown = None;
    let command = match run.heredocs.as_slice() {
        [] => line.clone(),
        [heredoc] if is_sole(line, heredoc) => {
            shown = Some(summary(&heredoc.body));
            if heredoc.body.starts_with("#!") && step.state.image.os != "windows" {
                scripts.push((heredoc.name.clone(), heredoc.body.clone()));
                paths::join(SCRIPTS, &heredoc.name)
            } else {
                heredoc.body.clone()
            }
        }
        heredocs => {
            let mut text = line.clone();
            for heredoc in heredocs {
                text.push('\n');
                // The shell removes the tabs of `<<-` itself.
                text.push_str(&heredoc.raw);
                text.push_str(&heredoc.name);
            }
            text
        }
    };
    let mut argv = step.state.shell();
    argv.push(command);
    Words { argv, scripts, shown }
}

/// Whether the line has nothing but the heredoc's word.
fn is_sole(line: &str, heredoc: &Heredoc) -> bool {
    let word = line.trim().trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(word) = word.strip_prefix("<<") else { return false };
    let word = word.strip_prefix('-').unwrap_or(word);
    word.chars().filter(|c| !matches!(c, '"' | '\'' | '\\')).eq(heredoc.name.chars())
}

fn network(step: &Step<'_, '_>, run: &Run) -> Result<NetworkMode, PlanError> {
    let request = step.planner.request;
    let Some(network) = &run.network else { return Ok(request.network) };
    match network.value {
        RunNetwork::Default => Ok(request.network),
        RunNetwork::None => Ok(NetworkMode::None),
        RunNetwork::Host => {
            const ENTITLEMENT: &str = "network.host";
            // Who builds with the host's network anyway has given it to every step.
            let given =
                request.network == NetworkMode::Host || request.allow.iter().any(|e| e == ENTITLEMENT);
            let span = step.place(network.span);
            if given {
                Ok(NetworkMode::Host)
            } else {
                Err(PlanError::NotAllowed { entitlement: ENTITLEMENT, span })
            }
        }
    }
}

fn insecure(step: &Step<'_, '_>, run: &Run) -> Result<bool, PlanError> {
    const ENTITLEMENT: &str = "security.insecure";
    match &run.security {
        Some(security) if security.value == RunSecurity::Insecure => {
            let span = step.place(security.span);
            let given = step.planner.request.allow.iter().any(|e| e == ENTITLEMENT);
            if given { Ok(true) } else { Err(PlanError::NotAllowed { entitlement: ENTITLEMENT, span }) }
        }
        _ => Ok(false),
    }
}
