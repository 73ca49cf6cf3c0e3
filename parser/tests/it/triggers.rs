//! ONBUILD's triggers, kept as text and parsed again in another build.

use kiln_parser::{InstructionKind, Onbuild, parse, parse_trigger};

fn onbuild(text: &str) -> Onbuild {
    let mut file = parse(text.as_bytes()).unwrap();
    match file.stages.remove(0).instructions.remove(0).kind {
        InstructionKind::Onbuild(onbuild) => onbuild,
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn a_trigger_is_kept_as_written_with_its_heredocs() {
    let kept = onbuild("FROM scratch\nONBUILD  Run cat <<A \\\n  <<-'B' # x\n1\nA\n\t2\n\tB\n").trigger;
    assert_eq!(kept, "Run cat <<A   <<-'B' # x\n1\nA\n\t2\nB");
    let InstructionKind::Run(run) = parse_trigger(&kept).unwrap().kind else { unreachable!() };
    assert_eq!(run.shell_text().unwrap(), "cat <<A   <<-'B' # x\n1\nA\n\t2\nB");
}

#[test]
fn a_trigger_is_one_instruction_and_no_stage() {
    assert_eq!(parse_trigger("RUN x").unwrap().original, "RUN x");
    for text in ["", "# x", "FROM x", "ONBUILD RUN x", "MAINTAINER x", "RUN x\nRUN y", "RUN <<EOF\n"] {
        assert!(parse_trigger(text).is_err(), "{text}");
    }
}
