//! What fuzzing found worth keeping (`fuzz/corpus`), read again by the targets' own rules.

use std::path::{Path, PathBuf};

use kiln_parser::expand::{Variables, expand, expand_heredoc, expand_to_words};
use kiln_parser::ignore::{IgnoreMemory, IgnoreRules, Verdict};
use kiln_parser::pattern::Pattern;
use kiln_parser::{Command, InstructionKind, parse, parse_trigger};

/// Calls `each` with every file of one target's corpus.
fn replay(target: &str, each: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "{}", folder.display());
    for file in files {
        each(&std::fs::read(&file).unwrap());
    }
}

fn replay_text(target: &str, each: impl Fn(&str)) {
    replay(target, |bytes| {
        if let Ok(text) = std::str::from_utf8(bytes) {
            each(text);
        }
    });
}

#[test]
fn files_of_the_corpus_parse_or_say_where_they_do_not() {
    replay("parse", |text| match parse(text) {
        Ok(file) => {
            let mut instructions = file.stages.iter().flat_map(|stage| &stage.instructions);
            assert!(instructions.all(|instruction| text.get(instruction.span.range()).is_some()));
        }
        Err(errors) => assert!(errors.0.iter().all(|error| text.get(error.span().range()).is_some())),
    });
}

#[test]
fn triggers_of_the_corpus_keep_their_text() {
    replay_text("trigger", |text| {
        if let Ok(instruction) = parse_trigger(text) {
            assert!(!instruction.original.is_empty());
        }
    });
}

#[test]
fn words_of_the_corpus_expand_or_fail() {
    struct Three;
    impl Variables for Three {
        fn get(&self, name: &str) -> Option<&str> {
            match name {
                "a" => Some("value"),
                "b" => Some(""),
                "c" => Some("/usr/lib/*.so 'x' \"y\" $a\n"),
                _ => None,
            }
        }
    }
    replay_text("expand", |word| {
        for escape in ['\\', '`'] {
            let _ = expand(word, &Three, escape);
            let _ = expand_to_words(word, &Three, escape);
            let _ = expand_heredoc(word, &Three, escape);
        }
    });
}

#[test]
fn ignore_files_of_the_corpus_prune_only_what_is_out() {
    replay("ignore", |text| {
        let (rules, path) = text.split_at(text.iter().rposition(|byte| *byte == b'\n').unwrap_or(0));
        let path = String::from_utf8_lossy(path).trim_matches(['\n', '/']).to_owned();
        let Ok(rules) = IgnoreRules::parse(rules) else { return };
        let memory = IgnoreMemory::new(rules.clone());
        let verdict = rules.verdict(&path);
        assert_eq!(memory.verdict(&path), verdict);
        if verdict == Verdict::Prune {
            assert_eq!(memory.verdict(&format!("{path}/below")), Verdict::Prune);
        }
    });
}

#[test]
fn patterns_of_the_corpus_match_or_do_not() {
    replay_text("pattern", |text| {
        let Some((source, name)) = text.split_once('\n') else { return };
        if let Ok(pattern) = Pattern::new(source)
            && !Pattern::is_wildcard(source)
            && !source.contains('\\')
        {
            assert_eq!(pattern.matches(name), source == name);
        }
    });
}

#[test]
fn mounts_of_the_corpus_mean_the_same_when_expanded() {
    replay_text("mount", |text| {
        let escaped = text.chars().filter(|ch| !matches!(ch, '\n' | '\r')).flat_map(|ch| ['\\', ch]);
        let line = format!("RUN --mount={} true", escaped.collect::<String>());
        let Ok(instruction) = parse_trigger(&line) else { return };
        let InstructionKind::Run(run) = instruction.kind else { unreachable!() };
        for mount in run.mounts.iter().filter(|mount| !mount.written.contains('$')) {
            let same = mount.expanded(|value| Ok::<_, kiln_parser::MountProblem>(value.to_owned()));
            assert_eq!(same.as_ref(), Ok(&mount.value));
        }
    });
}

#[test]
fn exec_forms_of_the_corpus_are_read_whole() {
    replay_text("exec_form", |text| {
        let Ok(instruction) = parse_trigger(&format!("CMD {text}")) else { return };
        if let InstructionKind::Cmd(Command::Shell(words)) = &instruction.kind {
            assert_eq!(words.trim(), words);
        }
    });
}
