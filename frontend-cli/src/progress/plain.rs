//! BuildKit's plain progress: numbered lines in blocks, one block a step, for logs and files.
//!
//! ```text
//! #5 [2/3] RUN make
//! #5 0.123 cc a.c
//! #5 DONE 0.2s
//! ```
//!
//! Steps run side by side, yet lines are shown a step at a time: the step shown keeps the stage until it ends or falls
//! silent while others have something to say; then `#5 ...` marks that it goes on. Every line of a log carries its
//! step's number, so that no step can speak in the voice of the display (or of the CI that reads it).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::Write;
use std::time::Duration;

use kiln::{Event, LogStream, StepId};

use super::{Display, part_text, warnings_text};
use crate::printable::{log_line, printable};

/// Writes lines to `out`.
pub(super) struct Plain<W> {
    out: W,
    cut_names: bool,
    steps: BTreeMap<StepId, Step>,
    /// Steps with something to say, in the order in which they began to; the one shown is not among them.
    waiting: VecDeque<StepId>,
    shown: Option<StepId>,
    /// When the step shown last said something, and since when others wait.
    spoke: Duration,
    others_since: Option<Duration>,
    now: Duration,
    warnings: Vec<(Option<&'static str>, String, Option<u32>)>,
}

#[derive(Default)]
struct Step {
    name: String,
    started: Duration,
    ended: bool,
    /// What is to be printed.
    lines: Vec<String>,
    /// The last, unfinished line of each stream.
    partial: [Vec<u8>; 2],
    /// When each part was last told; `None` once all of it was.
    parts: HashMap<String, Option<Duration>>,
}

impl<W: Write + Send> Plain<W> {
    pub(super) fn new(out: W, cut_names: bool) -> Self {
        Self {
            out,
            cut_names,
            steps: BTreeMap::new(),
            waiting: VecDeque::new(),
            shown: None,
            spoke: Duration::ZERO,
            others_since: None,
            now: Duration::ZERO,
            warnings: Vec::new(),
        }
    }

    /// Queues a line for `id` and shows it as soon as it is its turn.
    fn say(&mut self, id: StepId, line: Option<String>) {
        let step = self.steps.entry(id).or_default();
        step.lines.extend(line);
        if self.shown == Some(id) {
            self.spoke = self.now;
        } else if !self.waiting.contains(&id) {
            self.waiting.push_back(id);
            self.others_since.get_or_insert(self.now);
        }
    }

    /// The step's last word.
    fn end(&mut self, id: StepId, word: String) {
        let step = self.steps.entry(id).or_default();
        if step.ended {
            return;
        }
        for stream in [0, 1] {
            let rest = std::mem::take(&mut step.partial[stream]);
            if !rest.is_empty() {
                step.lines.push(log_text(id, step.started, self.now, &rest));
            }
        }
        step.ended = true;
        self.say(id, Some(word));
    }

    fn log(&mut self, id: StepId, stream: LogStream, bytes: &[u8]) {
        let now = self.now;
        let step = self.steps.entry(id).or_default();
        let partial = &mut step.partial[usize::from(stream == LogStream::Stderr)];
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let line = piece.strip_suffix(b"\n");
            partial.extend_from_slice(line.unwrap_or(piece));
            if line.is_some() || partial.len() >= LONGEST_LINE {
                step.lines.push(log_text(id, step.started, now, &std::mem::take(partial)));
            }
        }
        if !step.lines.is_empty() {
            self.say(id, None);
        }
    }

    /// Shows what may be shown.
    fn flush(&mut self) {
        loop {
            if let Some(id) = self.shown {
                let Some(step) = self.steps.get_mut(&id) else { return };
                for line in step.lines.drain(..) {
                    let _ = writeln!(self.out, "{line}");
                }
                if !step.ended {
                    if !self.must_switch() {
                        break;
                    }
                    let _ = writeln!(self.out, "#{} ...", id.0);
                }
                let _ = writeln!(self.out);
                self.shown = None;
            }
            let Some(next) = self.waiting.pop_front() else { break };
            self.shown = Some(next);
            self.spoke = self.now;
            self.others_since = (!self.waiting.is_empty()).then_some(self.now);
            let name = self.steps.get(&next).map(|step| step.name.as_str()).unwrap_or_default();
            let name = printable(name);
            let name = match name.char_indices().nth(SHORT_NAME) {
                Some((end, _)) if self.cut_names => format!("{}...", &name[..end]),
                _ => name.into_owned(),
            };
            let _ = writeln!(self.out, "#{} {name}", next.0);
        }
    }

    /// Whether another step gets the stage while the one shown goes on.
    fn must_switch(&self) -> bool {
        let Some(since) = self.others_since else { return false };
        let held: usize =
            self.waiting.iter().filter_map(|id| self.steps.get(id)).map(|step| step.lines.len()).sum();
        held > MOST_HELD_LINES
            || self.now.saturating_sub(self.spoke.max(since)) >= SILENCE
            || self.now.saturating_sub(since) >= LONGEST_WAIT
    }
}

impl<W: Write + Send> Display for Plain<W> {
    fn event(&mut self, event: &Event) {
        if let Some(at) = time_of(event) {
            self.now = self.now.max(at);
        }
        match event {
            Event::Step { id, name, .. } => self.steps.entry(*id).or_default().name = one_line(name),
            Event::Started { id, at } => {
                self.steps.entry(*id).or_default().started = *at;
                self.say(*id, None);
            }
            Event::Cached { id, .. } => self.end(*id, format!("#{} CACHED", id.0)),
            Event::Waiting { id, pid } => {
                let who = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
                self.say(*id, Some(format!("#{} waiting for another build that makes it{who}", id.0)));
            }
            Event::Log { id, stream, bytes, .. } => self.log(*id, *stream, bytes),
            Event::Progress { id, part, current, total } => {
                let now = self.now;
                let step = self.steps.entry(*id).or_default();
                let is_whole = total.is_some_and(|total| *current >= total);
                let due = match step.parts.get(part) {
                    None => true,
                    Some(None) => false,
                    Some(Some(last)) => is_whole || now.saturating_sub(*last) >= PART_EVERY,
                };
                if due {
                    step.parts.insert(part.clone(), (!is_whole).then_some(now));
                    let text = part_text(&printable(part), *current, *total);
                    let word = if is_whole { " done" } else { "" };
                    self.say(*id, Some(format!("#{} {text}{word}", id.0)));
                }
            }
            Event::Done { id, at } => {
                let took = at.saturating_sub(self.steps.entry(*id).or_default().started);
                self.end(*id, format!("#{} DONE {:.1}s", id.0, took.as_secs_f64()));
            }
            Event::Failed { id, message, .. } => {
                self.end(*id, format!("#{} ERROR: {}", id.0, printable(&one_line(message))));
            }
            Event::Canceled { id, .. } => self.end(*id, format!("#{} CANCELED", id.0)),
            Event::Warning { rule, message, span } => {
                self.warnings.push((*rule, message.clone(), span.map(|span| span.line)));
            }
            _ => {}
        }
        self.flush();
    }

    fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.flush();
    }

    fn pause(&mut self) {
        let _ = self.out.flush();
    }

    fn finish(&mut self, _: Duration) {
        // A step that never ended (a build torn down) gives the stage up all the same.
        for step in self.steps.values_mut() {
            step.ended = true;
        }
        self.flush();
        let _ = self.out.write_all(warnings_text(&self.warnings).as_bytes());
        let _ = self.out.flush();
    }
}

fn log_text(id: StepId, started: Duration, now: Duration, line: &[u8]) -> String {
    format!("#{} {:.3} {}", id.0, now.saturating_sub(started).as_secs_f64(), log_line(line))
}

/// A heredoc's or continued instruction's name in one line.
pub(super) fn one_line(name: &str) -> String {
    if name.contains(['\n', '\r']) {
        return name.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    name.to_owned()
}

/// When an event happened.
pub(super) fn time_of(event: &Event) -> Option<Duration> {
    match event {
        Event::Started { at, .. }
        | Event::Cached { at, .. }
        | Event::Log { at, .. }
        | Event::Done { at, .. }
        | Event::Failed { at, .. }
        | Event::Canceled { at, .. } => Some(*at),
        _ => None,
    }
}

/// A line longer than this is shown in pieces, so that a step cannot make the display hold gigabytes.
const LONGEST_LINE: usize = 64 << 10;
/// Lines that may wait for their turn.
const MOST_HELD_LINES: usize = 4096;
/// BuildKit's times.
const SILENCE: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const PART_EVERY: Duration = Duration::from_secs(5);
/// `PROGRESS_NO_TRUNC=0`.
const SHORT_NAME: usize = 72;

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;

    fn shown(events: &[Event]) -> String {
        let mut out = Vec::new();
        let mut plain = Plain::new(&mut out, false);
        events.iter().for_each(|event| plain.event(event));
        plain.finish(at(9000));
        drop(plain);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_build_is_told_in_blocks_as_buildkit_tells_it() {
        insta::assert_snapshot!(shown(&failing_build()), @r#"
        #1 [internal] load build definition from Dockerfile
        #1 DONE 0.0s

        #2 [1/4] FROM docker.io/library/busybox:latest
        #2 CACHED

        #3 [2/4] RUN apk add make
        #3 CACHED

        #4 [3/4] RUN make
        #4 0.123 cc a.c
        #4 0.123 cc b.c
        #4 0.310 b.c:1: no
        #4 ERROR: process "/bin/sh -c make" did not complete successfully: exit code: 2

        #5 [other 1/1] RUN sleep 9
        #5 0.150 zzz
        #5 CANCELED
        "#);
    }

    #[test]
    fn a_silent_step_gives_the_stage_to_one_that_speaks() {
        let events = [
            step(1, "[1/2] RUN a"),
            step(2, "[2/2] RUN b"),
            started(1, 0),
            log(1, b"one\n", 10),
            started(2, 20),
            log(2, b"two\n", 6000),
            done(2, 6100),
            log(1, b"three", 6200),
            done(1, 6300),
        ];
        insta::assert_snapshot!(shown(&events), @r"
        #1 [1/2] RUN a
        #1 0.010 one
        #1 ...

        #2 [2/2] RUN b
        #2 5.980 two
        #2 DONE 6.1s

        #1 [1/2] RUN a
        #1 6.300 three
        #1 DONE 6.3s
        ");
    }

    #[test]
    fn downloads_are_told_at_their_start_and_end() {
        let events = [
            step(1, "[1/1] FROM busybox"),
            started(1, 0),
            progress(1, "sha256:abc downloading", 0, 4_000_000),
            progress(1, "sha256:abc downloading", 1_000_000, 4_000_000),
            progress(1, "sha256:abc downloading", 4_000_000, 4_000_000),
            progress(1, "sha256:abc downloading", 4_000_000, 4_000_000),
            done(1, 700),
        ];
        insta::assert_snapshot!(shown(&events), @r"
        #1 [1/1] FROM busybox
        #1 sha256:abc downloading 0B / 4MB
        #1 sha256:abc downloading 4MB / 4MB done
        #1 DONE 0.7s
        ");
    }

    #[test]
    fn every_line_carries_the_steps_number_whatever_the_step_prints() {
        let text = shown(&[
            step(1, "[1/1] RUN evil\n#9 DONE 0.0s"),
            started(1, 0),
            log(1, b"::set-env x\n\x1b[2K#1 CACHED\r\n\n", 5),
            done(1, 9),
        ]);
        assert!(text.lines().all(|line| line.is_empty() || line.starts_with("#1 ")), "{text}");
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn warnings_follow_the_steps() {
        let warning = Event::Warning {
            rule: Some("StageNameCasing"),
            message: "Stage name 'Base' should be lowercase".into(),
            span: Some(kiln::Span { line: 3, ..kiln::Span::default() }),
        };
        insta::assert_snapshot!(shown(&[step(1, "[1/1] RUN a"), cached(1, 0), warning]), @r"
        #1 [1/1] RUN a
        #1 CACHED

         1 warning found:
         - StageNameCasing: Stage name 'Base' should be lowercase (line 3)
        ");
    }
}
