//! What RUN does in vain: each has a shell of its own, and looks at the last command's end only.

use crate::lint::Findings;
use crate::lint::command::{is_assignment, run_step, runs};
use crate::{Command, Dockerfile, InstructionKind};

/// CdInsteadOfWorkdir.
pub(in crate::lint) fn cd(file: &Dockerfile, found: &mut Findings) {
    for (_, step) in runs(file) {
        let Some(last) = step.commands.last().filter(|last| last.program() == "cd") else { continue };
        let target = last.arguments().next().unwrap_or("~");
        found.add(
            format!("`cd {target}` ends with this RUN: write `WORKDIR {target}` for the instructions below"),
            step.instruction.span,
        );
    }
}

/// ExportLost.
pub(in crate::lint) fn export(file: &Dockerfile, found: &mut Findings) {
    for (_, step) in runs(file) {
        let Some(last) = step.commands.last().filter(|last| last.program() == "export") else { continue };
        let pairs = last.arguments().filter(|word| is_assignment(word)).collect::<Vec<_>>().join(" ");
        if !pairs.is_empty() {
            found.add(
                format!(
                    "`export {pairs}` ends with this RUN: write `ENV {pairs}` for the instructions below"
                ),
                step.instruction.span,
            );
        }
    }
}

/// PipeHidesFailure: downloads only, since few other commands' failures pass unseen.
pub(in crate::lint) fn piped_download(file: &Dockerfile, found: &mut Findings) {
    for stage in &file.stages {
        let mut shell_minds = false;
        for instruction in &stage.instructions {
            if let InstructionKind::Shell(words) = &instruction.kind {
                shell_minds = words.iter().any(|word| word.contains("pipefail"));
            }
            let Some(step) = run_step(instruction) else { continue };
            let minds = shell_minds || step.commands.iter().any(|one| one.has("pipefail"));
            let download = |one: &&crate::lint::command::Simple| {
                one.is_piped && matches!(one.program(), "curl" | "wget")
            };
            if let Some(one) = step.commands.iter().find(download).filter(|_| !minds) {
                let message = format!(
                    "A failure of `{}` before the pipe goes unseen: set `SHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]`, or save the file first",
                    one.program()
                );
                found.add(message, instruction.span);
            }
        }
    }
}

/// SudoInRun.
pub(in crate::lint) fn sudo(file: &Dockerfile, found: &mut Findings) {
    for (_, step) in runs(file) {
        let is_sudo = match &step.run.command {
            Command::Exec(words) => words.first().is_some_and(|word| word == "sudo"),
            Command::Shell(_) => step.commands.iter().any(|one| one.program() == "sudo"),
        };
        if is_sudo {
            found.add(
                "`sudo` in a RUN: switch with USER instead, and drop it where the user is root",
                step.instruction.span,
            );
        }
    }
}
