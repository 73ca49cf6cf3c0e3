//! Instructions that only change the image's config (FEATURES MI).

use kiln_image::oci;
use kiln_parser::{Command, Healthcheck, Onbuild, Spanned};

use super::Step;
use crate::plan::PlanError;
use crate::plan::history::{self, Made};

/// Takes CMD.
pub(super) fn cmd(step: &mut Step<'_, '_>, command: &Command) -> Result<(), PlanError> {
    let span = step.span();
    if let Some(before) = step.state.last.cmd.replace(span) {
        let keyword = step.keyword().to_owned();
        step.planner.warnings.given_again(&keyword, before, span);
    }
    let argv = argv(step, command);
    let text = format!("CMD {}", history::quoted(&argv));
    let config = &mut step.state.image.config;
    config.cmd = (!argv.is_empty()).then_some(argv);
    // What docker writes for Windows' sake, and BuildKit for every image with a CMD (FEATURES MI4).
    config.args_escaped = true;
    step.planner.record(step.state, text, Made::Nothing, span)
}

/// Takes ENTRYPOINT. The base's CMD belongs to the base's ENTRYPOINT and goes with it (FEATURES MI2).
pub(super) fn entrypoint(step: &mut Step<'_, '_>, command: &Command) -> Result<(), PlanError> {
    let span = step.span();
    if let Some(before) = step.state.last.entrypoint.replace(span) {
        let keyword = step.keyword().to_owned();
        step.planner.warnings.given_again(&keyword, before, span);
    }
    let argv = argv(step, command);
    let text = format!("ENTRYPOINT {}", history::quoted(&argv));
    let config = &mut step.state.image.config;
    config.entrypoint = (!argv.is_empty()).then_some(argv);
    if step.state.last.cmd.is_none() {
        config.cmd = None;
    }
    step.planner.record(step.state, text, Made::Nothing, span)
}

fn argv(step: &mut Step<'_, '_>, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(argv) => argv.clone(),
        Command::Shell(text) => {
            if step.state.image.config.shell.as_ref().is_none_or(Vec::is_empty) {
                let (keyword, span) = (step.keyword().to_owned(), step.span());
                step.planner.warnings.shell_form(&keyword, span);
            }
            let mut argv = step.state.shell();
            argv.push(text.clone());
            argv
        }
    }
}

/// Takes HEALTHCHECK.
pub(super) fn healthcheck(step: &mut Step<'_, '_>, check: &Healthcheck) -> Result<(), PlanError> {
    let span = step.span();
    if let Some(before) = step.state.last.healthcheck.replace(span) {
        let keyword = step.keyword().to_owned();
        step.planner.warnings.given_again(&keyword, before, span);
    }
    let check = match check {
        Healthcheck::None => oci::Healthcheck { test: vec!["NONE".into()], ..oci::Healthcheck::default() },
        Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } => {
            let test = match command {
                Command::Shell(text) => vec!["CMD-SHELL".into(), text.clone()],
                Command::Exec(argv) => {
                    std::iter::once("CMD".to_owned()).chain(argv.iter().cloned()).collect()
                }
            };
            oci::Healthcheck {
                test,
                interval: *interval,
                timeout: *timeout,
                start_period: *start_period,
                start_interval: *start_interval,
                retries: u64::from(*retries),
            }
        }
    };
    let text = format!("HEALTHCHECK {}", history::healthcheck(&check));
    step.state.image.config.healthcheck = Some(check);
    step.planner.record(step.state, text, Made::Nothing, span)
}

/// Takes SHELL.
pub(super) fn shell(step: &mut Step<'_, '_>, shell: &[String]) -> Result<(), PlanError> {
    step.state.image.config.shell = Some(shell.to_vec());
    let span = step.span();
    step.planner.record(step.state, format!("SHELL {}", history::bracketed(shell)), Made::Nothing, span)
}

/// Takes USER. Whether the user exists is seen by the first step that needs it (FEATURES MI10).
pub(super) fn user(step: &mut Step<'_, '_>, user: &Spanned<String>) -> Result<(), PlanError> {
    let user = step.expand(user)?;
    let text = format!("USER {user}");
    step.state.image.config.user = user;
    let span = step.span();
    step.planner.record(step.state, text, Made::Nothing, span)
}

/// Takes VOLUME.
pub(super) fn volume(step: &mut Step<'_, '_>, volumes: &[Spanned<String>]) -> Result<(), PlanError> {
    // All are expanded before one is judged: what is said of their variables comes first.
    let paths = volumes.iter().map(|volume| step.expand(volume)).collect::<Result<Vec<_>, _>>()?;
    if let Some((volume, _)) = volumes.iter().zip(&paths).find(|(_, path)| path.is_empty()) {
        return Err(PlanError::EmptyVolume { span: step.place(volume.span) });
    }
    let text = format!("VOLUME {}", history::bracketed(&paths));
    let volumes = step.state.image.config.volumes.get_or_insert_default();
    volumes.extend(paths.into_iter().map(|path| (path, oci::Empty {})));
    let span = step.span();
    step.planner.record(step.state, text, Made::Nothing, span)
}

/// Takes MAINTAINER.
pub(super) fn maintainer(step: &mut Step<'_, '_>, name: &str) -> Result<(), PlanError> {
    name.clone_into(&mut step.state.image.author);
    let span = step.span();
    step.planner.record(step.state, format!("MAINTAINER {name}"), Made::Nothing, span)
}

/// Takes ONBUILD: the text is kept as it is, and leaves no history (FEATURES MI17).
pub(super) fn onbuild(step: &mut Step<'_, '_>, onbuild: &Onbuild) -> Result<(), PlanError> {
    step.state.image.config.on_build.get_or_insert_default().push(onbuild.trigger.clone());
    Ok(())
}
