//! Package managers that keep what they downloaded.

use crate::lint::Findings;
use crate::lint::command::{Simple, run_step, runs};
use crate::{Dockerfile, InstructionKind, Stage};

const DNF: [&str; 4] = ["dnf", "dnf5", "microdnf", "yum"];

/// ApkCacheKept.
pub(in crate::lint) fn apk(file: &Dockerfile, found: &mut Findings) {
    for (_, step) in runs(file) {
        let keeps = |one: &Simple| one.is(&["apk"], "add") && !one.has("--no-cache");
        let removed = removes(&step.commands, "/var/cache/apk");
        // Without an index there is nothing to keep, and `add` fails; with one it came from an update.
        if step.commands.iter().any(keeps) && !removed && !step.caches("/var/cache/apk") {
            found.add("`apk add` keeps its index in the layer: add `--no-cache`", step.instruction.span);
        }
    }
}

/// DnfCacheKept.
pub(in crate::lint) fn dnf(file: &Dockerfile, found: &mut Findings) {
    for (_, step) in runs(file) {
        let installs = |one: &Simple| one.is(&DNF, "install") || one.is(&DNF, "update");
        let cleans = |one: &Simple| one.is(&DNF, "clean") && one.has("all");
        let cached = ["/var/cache/dnf", "/var/cache/yum", "/var/cache/libdnf5"];
        let removed = step.commands.iter().any(cleans)
            || cached.iter().any(|path| removes(&step.commands, path) || step.caches(path));
        if let Some(one) = step.commands.iter().find(|one| installs(one)).filter(|_| !removed) {
            let name = one.program();
            found.add(
                format!("`{name}` keeps its downloads in the layer: end the RUN with `{name} clean all`"),
                step.instruction.span,
            );
        }
    }
}

/// PipCacheKept.
pub(in crate::lint) fn pip(file: &Dockerfile, found: &mut Findings) {
    for stage in file.stages.iter().filter(|stage| !sets(stage, "PIP_NO_CACHE_DIR")) {
        for step in stage.instructions.iter().filter_map(run_step) {
            let off = step.run.shell_text().is_some_and(|text| text.contains("PIP_NO_CACHE_DIR="));
            // The cache is in the home of whoever runs pip.
            let mounted = step.run.mounts.iter().any(|mount| mount.written.contains("cache/pip"))
                || step.caches("/root/.cache/pip");
            if step.commands.iter().any(keeps_wheels) && !off && !mounted {
                found.add(
                    "`pip install` keeps its downloads in the layer: add `--no-cache-dir`, or mount a cache on /root/.cache/pip",
                    step.instruction.span,
                );
            }
        }
    }
}

fn keeps_wheels(one: &Simple) -> bool {
    let is_pip = one.program().starts_with("pip") && one.arguments().next() == Some("install");
    let is_module = one.program().starts_with("python")
        && one.words.windows(3).any(|words| words == ["-m", "pip", "install"]);
    (is_pip || is_module) && !one.has("--no-cache-dir")
}

fn removes(commands: &[Simple], path: &str) -> bool {
    commands.iter().any(|one| one.program() == "rm" && one.words.iter().any(|word| word.starts_with(path)))
}

/// Whether an ENV or ARG of the stage sets the variable.
fn sets(stage: &Stage, name: &str) -> bool {
    stage.instructions.iter().any(|instruction| match &instruction.kind {
        InstructionKind::Env(pairs) => pairs.iter().any(|pair| pair.key.value == name),
        InstructionKind::Arg(pairs) => {
            pairs.iter().any(|pair| pair.name.value == name && pair.default.is_some())
        }
        _ => false,
    })
}
