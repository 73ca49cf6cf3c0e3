//! Any bytes as a Dockerfile: no panic, spans inside the text, and triggers that parse again.
#![no_main]

use kiln_parser::{InstructionKind, parse, parse_trigger};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    match parse(text) {
        Ok(file) => {
            assert!(!file.stages.is_empty());
            for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
                assert!(text.get(instruction.span.range()).is_some());
                match &instruction.kind {
                    InstructionKind::Run(run) => drop(run.shell_text()),
                    // A trigger is parsed with the default escape character, and one at its end is a continuation.
                    InstructionKind::Onbuild(onbuild)
                        if file.directives.escape == '\\'
                            && onbuild.instruction.as_ref().is_some_and(|inner| !inner.original.ends_with('\\')) =>
                    {
                        assert!(parse_trigger(&onbuild.trigger).is_ok());
                    }
                    _ => {}
                }
            }
        }
        Err(errors) => {
            assert!(!errors.0.is_empty());
            for error in &errors.0 {
                assert!(text.get(error.span().range()).is_some());
                let _ = (error.to_string(), error.hint());
            }
        }
    }
});
