//! apt and apt-get in RUN.

use crate::Dockerfile;
use crate::lint::Findings;
use crate::lint::command::{RunStep, Simple, runs};

const APT: [&str; 3] = ["apt-get", "apt", "aptitude"];
const LISTS: &str = "/var/lib/apt/lists";

/// AptListsLeftBehind.
pub(in crate::lint) fn lists_left_behind(file: &Dockerfile, found: &mut Findings) {
    for (_, step) in runs(file) {
        let removed = step.commands.iter().any(|one| {
            let is_all = |word: &String| word.starts_with(LISTS) || word.starts_with("/var/lib/apt/*");
            (one.program() == "rm" && one.words.iter().any(is_all))
                || one.is(&["apt-get", "apt"], "distclean")
        });
        if has_update(&step) && !removed && !step.caches(LISTS) {
            found.add(
                "The package lists of `apt-get update` stay in the layer: end the RUN with `rm -rf /var/lib/apt/lists/*`",
                step.instruction.span,
            );
        }
    }
}

/// AptInstallWithoutUpdate.
pub(in crate::lint) fn install_without_update(file: &Dockerfile, found: &mut Findings) {
    for (_, step) in runs(file) {
        let install = step.commands.iter().position(is_install);
        let update = step.commands.iter().position(|one| one.is(&APT, "update"));
        let stale = install.is_some_and(|install| update.is_none_or(|update| update > install));
        let local = step.commands.iter().filter(|one| is_install(one)).all(|one| {
            one.arguments()
                .skip(1)
                .all(|package| package.starts_with(['/', '.']) || package.ends_with(".deb"))
        });
        if stale && !local && !step.caches(LISTS) {
            found.add(
                "`apt-get install` works with the package lists of another day: write `apt-get update && apt-get install` in one RUN",
                step.instruction.span,
            );
        }
    }
}

/// AptUpdateAlone.
pub(in crate::lint) fn update_alone(file: &Dockerfile, found: &mut Findings) {
    for (_, step) in runs(file) {
        let uses =
            |one: &Simple| APT.contains(&one.program()) && !one.is(&APT, "update") && !one.is(&APT, "clean");
        if has_update(&step) && !step.commands.iter().any(uses) && !step.caches(LISTS) {
            found.add(
                "`apt-get update` is alone in its RUN, so that later installs find its old result in the cache: join it with the install",
                step.instruction.span,
            );
        }
    }
}

/// AptInstallAsksQuestions.
pub(in crate::lint) fn asks_questions(file: &Dockerfile, found: &mut Findings) {
    for (_, step) in runs(file) {
        // `yes | apt-get install x` answers.
        let answered = step.commands.iter().any(|one| one.program() == "yes" && one.is_piped);
        let asks = |one: &Simple| {
            let says_yes = one.has_letter('y')
                || ["--yes", "--assume-yes", "-qq"].iter().any(|word| one.has(word))
                || one.words.iter().any(|word| word.contains("Assume-Yes"));
            is_install(one) && !says_yes
        };
        if !answered && step.commands.iter().any(asks) {
            found.add(
                "`apt-get install` asks whether to go on, and nobody is there to answer: add `-y`",
                step.instruction.span,
            );
        }
    }
}

fn has_update(step: &RunStep<'_>) -> bool {
    step.commands.iter().any(|one| one.is(&APT, "update"))
}

fn is_install(one: &Simple) -> bool {
    one.is(&APT, "install")
}
