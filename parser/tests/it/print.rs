//! A file that is printed from what was read is read as the same.

use std::fmt::Write as _;

use kiln_parser::{
    Command, Copy, CopySource, Dockerfile, Healthcheck, Heredoc, Instruction, InstructionKind, KeyValue, Run,
    RunNetwork, RunSecurity, Spanned, parse,
};
use proptest::prelude::*;

use crate::files::bare;

/// Writes a file anew, every instruction in its plainest form.
struct Printer {
    text: String,
    escape: char,
    /// What goes below the instruction's line.
    bodies: String,
}

fn printed(file: &Dockerfile) -> String {
    let mut printer = Printer { text: String::new(), escape: file.directives.escape, bodies: String::new() };
    if let Some(syntax) = &file.directives.syntax {
        printer.line(&format!("# syntax={}", syntax.value));
    }
    if file.directives.escape != '\\' {
        printer.line("# escape=`");
    }
    if let Some(check) = &file.directives.check {
        printer.line(&format!("# check={}", check.value));
    }
    for (args, comment) in file.global_args.iter().zip(&file.global_comments) {
        printer.comment(comment);
        printer.instruction(&InstructionKind::Arg(args.value.clone()));
    }
    for stage in &file.stages {
        printer.comment(&stage.comment);
        let mut flags = String::new();
        flags.extend(stage.platform.iter().map(|value| printer.flag("platform", value)));
        flags.extend(stage.after.iter().map(|value| printer.flag("after", value)));
        let name = stage.name.iter().map(|name| format!(" AS {}", name.value)).collect::<String>();
        printer.line(&format!("FROM {flags}{}{name}", stage.base.value));
        for Instruction { kind, comment, .. } in &stage.instructions {
            printer.comment(comment);
            printer.instruction(kind);
        }
    }
    printer.text
}

impl Printer {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
        self.text.push_str(&std::mem::take(&mut self.bodies));
    }

    /// A bare `#` in front, so that no comment further up belongs to this one, nor is any taken for a directive.
    fn comment(&mut self, lines: &[String]) {
        self.line("#");
        for line in lines {
            self.line(&format!("# {line}"));
        }
    }

    fn instruction(&mut self, kind: &InstructionKind) {
        let line = self.shown(kind);
        self.line(&line);
    }

    fn shown(&mut self, kind: &InstructionKind) -> String {
        match kind {
            InstructionKind::Arg(pairs) => {
                let words = pairs.iter().map(|pair| match &pair.default {
                    Some(default) => format!(" {}={}", pair.name.value, default.value),
                    None => format!(" {}", pair.name.value),
                });
                format!("ARG{}", words.collect::<String>())
            }
            InstructionKind::Env(pairs) => format!("ENV{}", key_values(pairs)),
            InstructionKind::Label(pairs) => format!("LABEL{}", key_values(pairs)),
            InstructionKind::Cmd(command) => format!("CMD {}", shown(command)),
            InstructionKind::Entrypoint(command) => format!("ENTRYPOINT {}", shown(command)),
            InstructionKind::Shell(words) => format!("SHELL {}", json(words)),
            InstructionKind::Expose(words) => format!("EXPOSE {}", joined(words)),
            InstructionKind::Volume(words) => {
                format!("VOLUME {}", json(&words.iter().map(|word| word.value.clone()).collect::<Vec<_>>()))
            }
            InstructionKind::Maintainer(word) => format!("MAINTAINER {}", word.value),
            InstructionKind::Stopsignal(word) => format!("STOPSIGNAL {}", word.value),
            InstructionKind::User(word) => format!("USER {}", word.value),
            InstructionKind::Workdir(word) => format!("WORKDIR {}", word.value),
            InstructionKind::Healthcheck(check) => healthcheck(check),
            InstructionKind::Onbuild(onbuild) => match &onbuild.instruction {
                Some(instruction) => format!("ONBUILD {}", self.shown(&instruction.kind)),
                None => format!("ONBUILD {}", onbuild.trigger),
            },
            InstructionKind::Run(run) => self.run(run),
            InstructionKind::Copy(copy) => format!("COPY {}", self.copy(copy, String::new())),
            InstructionKind::Add(add) => {
                let mut flags = String::new();
                flags.extend(add.checksum.iter().map(|value| self.flag("checksum", value)));
                flags.extend(add.keep_git_dir.map(|value| format!("--keep-git-dir={value} ")));
                flags.extend(add.unpack.map(|value| format!("--unpack={value} ")));
                format!("ADD {}", self.copy(&add.copy, flags))
            }
        }
    }

    fn run(&mut self, run: &Run) -> String {
        let mut line = String::from("RUN ");
        for mount in &run.mounts {
            line.push_str(&self.flag("mount", &mount.value.written));
        }
        line.extend(run.network.iter().map(|network| match network.value {
            RunNetwork::Default => "--network=default ",
            RunNetwork::None => "--network=none ",
            RunNetwork::Host => "--network=host ",
        }));
        line.extend(run.security.iter().map(|security| match security.value {
            RunSecurity::Sandbox => "--security=sandbox ",
            RunSecurity::Insecure => "--security=insecure ",
        }));
        for device in &run.devices {
            // A field with a comma or a quote in it is quoted as a whole.
            let name = format!("\"name={}\"", device.name.replace('"', "\"\""));
            line.push_str(&self.flag("device", &format!("{name},required={}", device.required)));
        }
        if matches!(&run.command, Command::Shell(text) if text.starts_with("--")) {
            line.push_str("-- ");
        }
        line.push_str(&shown(&run.command));
        run.heredocs.iter().for_each(|heredoc| self.body(heredoc));
        line
    }

    fn copy(&mut self, copy: &Copy, mut line: String) -> String {
        for (name, value) in [("chmod", &copy.chmod), ("chown", &copy.chown), ("from", &copy.from)] {
            line.extend(value.iter().map(|value| self.flag(name, value)));
        }
        line.extend(copy.exclude.iter().map(|value| self.flag("exclude", value)));
        line.push_str(if copy.link { "--link " } else { "" });
        line.push_str(if copy.parents { "--parents " } else { "" });
        let mut words = Vec::new();
        for source in &copy.sources {
            words.push(match source {
                CopySource::Path(path) => path.value.clone(),
                CopySource::Heredoc(heredoc) => {
                    self.body(heredoc);
                    let dash = if heredoc.chomp { "-" } else { "" };
                    let quote = if heredoc.expand { "" } else { "'" };
                    format!("<<{dash}{quote}{}{quote}", heredoc.name)
                }
            });
        }
        words.push(copy.dest.value.clone());
        let has_heredoc = copy.sources.iter().any(|source| matches!(source, CopySource::Heredoc(_)));
        line.push_str(&if has_heredoc { words.join(" ") } else { json(&words) });
        line
    }

    fn body(&mut self, heredoc: &Heredoc) {
        _ = writeln!(self.bodies, "{}{}", heredoc.raw, heredoc.name);
    }

    /// Every character escaped: blanks and quotes mean nothing then.
    fn flag(&self, name: &str, value: &str) -> String {
        let value: String = value.chars().flat_map(|ch| [self.escape, ch]).collect();
        format!("--{name}={value} ")
    }
}

fn key_values(pairs: &[KeyValue]) -> String {
    if let [KeyValue { key, value, is_legacy: true }] = pairs {
        // The old form takes any value.
        return format!(" {} {}", key.value, value.value);
    }
    pairs.iter().map(|pair| format!(" {}={}", pair.key.value, pair.value.value)).collect()
}

fn healthcheck(check: &Healthcheck) -> String {
    let Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } = check
    else {
        return "HEALTHCHECK NONE".to_owned();
    };
    let mut line = String::from("HEALTHCHECK ");
    let times = [
        ("interval", interval),
        ("timeout", timeout),
        ("start-period", start_period),
        ("start-interval", start_interval),
    ];
    for (name, nanoseconds) in times.into_iter().filter(|(_, nanoseconds)| **nanoseconds > 0) {
        _ = write!(line, "--{name}={nanoseconds}ns ");
    }
    _ = write!(line, "--retries={retries} CMD {}", shown(command));
    line
}

fn shown(command: &Command) -> String {
    match command {
        Command::Shell(text) => text.clone(),
        Command::Exec(words) => json(words),
    }
}

fn joined(words: &[Spanned<String>]) -> String {
    words.iter().map(|word| word.value.as_str()).collect::<Vec<_>>().join(" ")
}

fn json(words: &[String]) -> String {
    let escaped = words.iter().map(|word| {
        let units = word.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
        format!("\"{}\"", units.collect::<String>())
    });
    format!("[{}]", escaped.collect::<Vec<_>>().join(", "))
}

/// What a file says, without places, and without what only tells how it was written.
fn meaning(file: &Dockerfile) -> String {
    let mut file = file.clone();
    file.warnings.clear();
    for stage in &mut file.stages {
        stage.original.clear();
        for instruction in &mut stage.instructions {
            strip(instruction);
        }
    }
    bare(&format!("{file:?}"))
}

fn strip(instruction: &mut Instruction) {
    instruction.original.clear();
    match &mut instruction.kind {
        InstructionKind::Run(run) => run.flags.clear(),
        InstructionKind::Onbuild(onbuild) => {
            if let Some(instruction) = &mut onbuild.instruction {
                onbuild.trigger.clear();
                strip(instruction);
            }
        }
        _ => {}
    }
}

#[track_caller]
fn reads_again(text: &str) -> Result<(), TestCaseError> {
    let Ok(file) = parse(text.as_bytes()) else { return Ok(()) };
    let again = printed(&file);
    let read = parse(again.as_bytes());
    prop_assert!(read.is_ok(), "{:?}\n{text}\n---\n{again}", read.err());
    let read = read.unwrap();
    prop_assert_eq!(meaning(&file), meaning(&read), "{}\n---\n{}", text, again);
    Ok(())
}

/// A line or several that may stand in a stage; most are right.
fn fragment() -> impl Strategy<Value = String> {
    let word = || "[a-z$]{1,4}|\\$\\{a:-b\\}|\"a b\"|'x y'|a\\\\ b|/x|é";
    let words = || prop::collection::vec(word(), 1..4).prop_map(|words| words.join(" "));
    let array = "\\[(\"[a-z \\\\]{0,3}\"(, ?\"[a-z$é]{0,3}\"){0,2})?\\]";
    let delimiter = || prop_oneof!["E", "'E'", "\"E\"", "-E", " E", "-\"E\""];
    prop_oneof![
        words().prop_map(|words| format!("RUN {words}")),
        (words(), words()).prop_map(|(one, two)| format!("run {one} \\\n  # no\n\n\t{two}")),
        array.prop_map(|array| format!("RUN --network=none {array}")),
        array.prop_map(|array| format!("CMD {array}")),
        array.prop_map(|array| format!("ENTRYPOINT   {array}  ")),
        (delimiter(), "[a-z\t$ ]{0,5}").prop_map(|(end, body)| format!("RUN <<{end}\n\t{body}\nE")),
        (delimiter(), words()).prop_map(|(end, words)| format!("RUN cat <<{end} {words}\nx\nE")),
        (delimiter(), "[a-z\r]{0,5}").prop_map(|(end, body)| format!("COPY <<{end} a /d/\n{body}\nE")),
        (words(), words())
            .prop_map(|(one, two)| format!("COPY --link --chown=\"{one}\" --exclude=*.o x {two}")),
        array.prop_map(|array| format!("ADD --unpack=false --checksum=sha256:a {array}")),
        (word(), word()).prop_map(|(one, two)| format!("ENV A={one} B={two}")),
        words().prop_map(|words| format!("ENV A {words}")),
        (word(), word()).prop_map(|(one, two)| format!("LABEL {one}={two} \"a b\"=c")),
        word().prop_map(|word| format!("ARG A={word} B")),
        words().prop_map(|words| format!("ONBUILD RUN {words}")),
        array.prop_map(|array| format!("ONBUILD COPY {array}")),
        delimiter().prop_map(|end| format!("ONBUILD RUN <<{end}\nbody\nE")),
        words().prop_map(|words| format!("HEALTHCHECK --interval=1m30s --retries=2 CMD {words}")),
        array.prop_map(|array| format!("HEALTHCHECK CMD {array}")),
        Just("HEALTHCHECK NONE".to_owned()),
        words().prop_map(|words| format!("EXPOSE 80/tcp {words}")),
        words().prop_map(|words| format!("VOLUME {words}")),
        words().prop_map(|words| format!("WORKDIR {words}")),
        words().prop_map(|words| format!("USER {words}")),
        Just("RUN --mount=type=tmpfs,target=/c,noexec,U --mount=target=/d,relabel=shared,Z true".to_owned()),
        Just("RUN --mount=type=cache,target=/c,id=$a --mount=type=secret,id=s,required true".to_owned()),
        "# [a-z=]{0,8}|#|",
        Just("FROM --platform=linux/amd64 a AS Next".to_owned()),
        word().prop_map(|word| format!("FROM --after={word} a")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_printed_file_reads_as_the_same(
        head in prop_oneof!["", "# syntax=a/dockerfile:1\n", "# escape=\\\\\n", "# escape=`\n", "ARG A=b\n"],
        fragments in prop::collection::vec(fragment(), 0..8),
    ) {
        reads_again(&format!("{head}FROM base AS one\n{}\n", fragments.join("\n")))?;
    }
}

#[test]
fn the_fixtures_print_and_read_as_the_same() {
    let cases = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/conformance/cases");
    let mut count = 0;
    for case in std::fs::read_dir(cases).unwrap() {
        let Ok(text) = std::fs::read_to_string(case.unwrap().path().join("Dockerfile")) else { continue };
        count += usize::from(parse(text.as_bytes()).is_ok());
        reads_again(&text).unwrap();
    }
    assert!(count > 400, "{count} Dockerfiles");
}
