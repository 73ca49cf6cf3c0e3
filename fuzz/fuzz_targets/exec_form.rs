//! Any text behind CMD: the exec form is what `["…"]` says it is, anything else is the shell's.
#![no_main]

use kiln_parser::{Command, InstructionKind, parse_trigger};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(instruction) = parse_trigger(&format!("CMD {text}")) else { return };
    match instruction.kind {
        InstructionKind::Cmd(Command::Exec(words)) => {
            let quoted: Vec<String> = words.iter().map(|word| json(word)).collect();
            let again = parse_trigger(&format!("CMD [{}]", quoted.join(",")));
            // A continuation is read before JSON is.
            assert_eq!(again.map(|again| again.kind).ok(), Some(InstructionKind::Cmd(Command::Exec(words))));
        }
        InstructionKind::Cmd(Command::Shell(words)) => {
            assert!(words.trim() == words, "{words:?}");
        }
        other => panic!("CMD is {other:?}"),
    }
});

/// A string of JSON with everything escaped that the Dockerfile's own syntax could see.
fn json(text: &str) -> String {
    let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
    format!("\"{}\"", units.collect::<String>())
}
