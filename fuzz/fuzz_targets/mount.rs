//! Any text as `RUN --mount=`: no panic, and values without variables mean the same when they are expanded.
#![no_main]

use kiln_parser::{InstructionKind, parse_trigger};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // Quoted for the flag's own reader, so that commas, quotes and blanks reach the mount's.
    let quoted: String =
        text.chars().filter(|ch| !matches!(ch, '\n' | '\r')).flat_map(|ch| ['\\', ch]).collect();
    let Ok(instruction) = parse_trigger(&format!("RUN --mount={quoted} true")) else { return };
    let InstructionKind::Run(run) = instruction.kind else { panic!("RUN is no RUN") };
    for mount in &run.mounts {
        let again = mount.expanded(|value| Ok::<_, kiln_parser::MountProblem>(value.to_owned()));
        if !mount.written.contains('$') {
            assert_eq!(again.as_ref(), Ok(&mount.value));
        }
        let _ = mount.expanded(|value| Ok::<_, kiln_parser::MountProblem>(value.replace('$', "locked")));
    }
});
