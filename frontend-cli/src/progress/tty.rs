//! A picture of the build that is redrawn in place: finished steps, running ones with their last lines of log.
//!
//! What a step prints goes through a terminal emulator of a few lines (`vt100`), so that progress bars look as they
//! should and nothing of it reaches the reader's terminal but text.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::num::NonZeroU16;
use std::time::Duration;

use kiln::{Event, StepId};

use super::plain::{one_line, time_of};
use super::{Display, part_text, warnings_text};
use crate::printable::printable;
use crate::report::Paint;

/// Lines of log under a running step (`BUILDKIT_TTY_LOG_LINES`).
pub(super) const LOG_LINES: usize = 6;
pub(super) const MOST_LOG_LINES: usize = 200;

/// Draws on `out`.
pub(super) struct Tty<W> {
    out: W,
    size: Box<dyn Fn() -> Size + Send>,
    log_lines: usize,
    colours: Colours,
    /// Steps that began, in that order.
    steps: Vec<Step>,
    places: HashMap<StepId, usize>,
    /// Names of steps that have not begun.
    names: HashMap<StepId, String>,
    now: Duration,
    /// Lines of the picture on the screen.
    drawn: usize,
    warnings: Vec<(Option<&'static str>, String, Option<u32>)>,
}

/// Of the terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    columns: usize,
    rows: usize,
}

struct Step {
    name: String,
    started: Duration,
    state: State,
    log: vt100::Parser,
    has_log: bool,
    owes_line_end: bool,
    parts: Vec<(String, u64, Option<u64>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Waiting,
    Cached,
    Done(Duration),
    Failed(Duration),
    Canceled(Duration),
}

impl State {
    fn is_over(self) -> bool {
        !matches!(self, Self::Running | Self::Waiting)
    }
}

impl Tty<std::io::Stderr> {
    pub(super) fn new(out: std::io::Stderr, log_lines: usize, colours: Colours) -> Self {
        Self::with_size(out, Box::new(stderr_size), log_lines, colours)
    }
}

impl<W: Write + Send> Tty<W> {
    fn with_size(out: W, size: Box<dyn Fn() -> Size + Send>, log_lines: usize, colours: Colours) -> Self {
        Self {
            out,
            size,
            log_lines,
            colours,
            steps: Vec::new(),
            places: HashMap::new(),
            names: HashMap::new(),
            now: Duration::ZERO,
            drawn: 0,
            warnings: Vec::new(),
        }
    }

    /// The step, which begins now if it has not.
    fn step(&mut self, id: StepId) -> &mut Step {
        let place = *self.places.entry(id).or_insert_with(|| {
            let columns = (self.size)().columns.saturating_sub(LOG_INDENT.len()).max(1);
            self.steps.push(Step {
                name: self.names.get(&id).cloned().unwrap_or_default(),
                started: self.now,
                state: State::Running,
                log: vt100::Parser::new(clamp(self.log_lines), clamp(columns), 0),
                has_log: false,
                owes_line_end: false,
                parts: Vec::new(),
            });
            self.steps.len() - 1
        });
        &mut self.steps[place]
    }

    /// The picture, a line each, none wider than the terminal; at most as high as it unless all is asked for.
    fn frame(&self, size: Size, finished: bool) -> Vec<String> {
        let over = self.steps.iter().filter(|step| step.state.is_over()).count();
        let all = self.names.len().max(self.steps.len());
        let end = if finished && over == all { " FINISHED" } else { "" };
        let head = format!("[+] Building {:.1}s ({over}/{all}){end}", self.now.as_secs_f64());
        let blocks: Vec<Vec<String>> =
            self.steps.iter().map(|step| self.block(step, size.columns, finished)).collect();
        let mut lines = vec![fit(&head, size.columns)];
        if finished {
            lines.extend(blocks.into_iter().flatten());
            return lines;
        }
        // Running steps are shown first of all; finished ones, the latest before the others, where room is left.
        let mut room = size.rows.saturating_sub(2);
        let mut shown = vec![0; blocks.len()];
        let running = (0..blocks.len()).filter(|&index| !self.steps[index].state.is_over());
        let rest = (0..blocks.len()).rev().filter(|&index| self.steps[index].state.is_over());
        for index in running.clone() {
            shown[index] = 1.min(room);
            room -= shown[index];
        }
        for index in running {
            let more = (blocks[index].len() - 1).min(room);
            shown[index] += more;
            room -= more;
        }
        for index in rest {
            shown[index] = blocks[index].len().min(room);
            room -= shown[index];
        }
        lines.extend(blocks.into_iter().zip(shown).flat_map(|(block, lines)| block.into_iter().take(lines)));
        lines
    }

    fn block(&self, step: &Step, columns: usize, finished: bool) -> Vec<String> {
        let took = |end: Duration| end.saturating_sub(step.started);
        let (word, took, colour) = match step.state {
            State::Running => ("", took(self.now), None),
            State::Waiting => ("WAITING ", took(self.now), None),
            State::Cached => ("CACHED ", Duration::ZERO, Some(&self.colours.run)),
            State::Done(end) => ("", took(end), Some(&self.colours.run)),
            State::Failed(end) => ("ERROR ", took(end), Some(&self.colours.error)),
            State::Canceled(end) => ("CANCELED ", took(end), Some(&self.colours.cancel)),
        };
        let time = format!(" {:.1}s", took.as_secs_f64());
        let text = fit(&format!(" => {word}{}", printable(&step.name)), columns.saturating_sub(time.len()));
        let gap = columns.saturating_sub(text.chars().count() + time.len());
        let line = format!("{text}{}{time}", " ".repeat(gap));
        let mut lines = vec![self.colours.paint(colour, &fit(&line, columns))];
        if step.state.is_over() && (!finished || !matches!(step.state, State::Failed(_))) {
            return lines;
        }
        for (part, current, total) in &step.parts {
            if total.is_none_or(|total| *current < total) {
                let text = part_text(&printable(part), *current, *total);
                lines.push(fit(&format!(" => => {text}"), columns));
            }
        }
        if step.has_log {
            let screen = step.log.screen();
            let rows: Vec<String> = screen.rows(0, screen.size().1.get()).collect();
            let last = rows.iter().rposition(|row| !row.trim().is_empty()).map_or(0, |last| last + 1);
            lines.extend(rows[..last].iter().map(|row| {
                self.colours.dim(&fit(&format!("{LOG_INDENT}{}", printable(row.trim_end())), columns))
            }));
        }
        lines
    }

    /// Replaces the picture on the screen.
    fn draw(&mut self, finished: bool) {
        let lines = self.frame((self.size)(), finished);
        // No line may wrap, or the number of lines to go back would be wrong: wide characters are cut by the terminal.
        let mut text = "\x1b[?7l".to_owned();
        if self.drawn > 0 {
            let _ = write!(text, "\x1b[{}A", self.drawn);
        }
        for line in &lines {
            let _ = writeln!(text, "\r\x1b[2K{line}");
        }
        text.push_str("\x1b[J\x1b[?7h");
        self.drawn = lines.len();
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }
}

impl<W: Write + Send> Display for Tty<W> {
    fn event(&mut self, event: &Event) {
        if let Some(at) = time_of(event) {
            self.now = self.now.max(at);
        }
        match event {
            Event::Step { id, name, .. } => {
                self.names.insert(*id, one_line(name));
            }
            Event::Started { id, at } => {
                let step = self.step(*id);
                step.started = *at;
                step.state = State::Running;
            }
            Event::Waiting { id, .. } => self.step(*id).state = State::Waiting,
            Event::Cached { id, .. } => self.step(*id).state = State::Cached,
            Event::Done { id, at } => {
                let step = self.step(*id);
                if step.state != State::Cached {
                    step.state = State::Done(*at);
                }
            }
            Event::Failed { id, at, .. } => self.step(*id).state = State::Failed(*at),
            Event::Canceled { id, at } => self.step(*id).state = State::Canceled(*at),
            Event::Log { id, bytes, .. } => {
                let step = self.step(*id);
                step.has_log = true;
                for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
                    // A pipe's line ends have no carriage returns. The last one waits for what follows, or it would
                    // cost a line of the few that there are.
                    if std::mem::take(&mut step.owes_line_end) {
                        step.log.process(b"\r\n");
                    }
                    let line = piece.strip_suffix(b"\n");
                    step.owes_line_end = line.is_some();
                    step.log.process(line.unwrap_or(piece));
                }
            }
            Event::Progress { id, part, current, total } => {
                let parts = &mut self.step(*id).parts;
                if let Some(known) = parts.iter_mut().find(|known| known.0 == *part) {
                    (known.1, known.2) = (*current, *total);
                } else if parts.len() < MOST_PARTS {
                    parts.push((part.clone(), *current, *total));
                }
            }
            Event::Warning { rule, message, span } => {
                self.warnings.push((*rule, message.clone(), span.map(|span| span.line)));
            }
            _ => {}
        }
    }

    fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.draw(false);
    }

    fn finish(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.draw(true);
        let warnings = warnings_text(&self.warnings);
        if !warnings.is_empty() {
            let _ = write!(self.out, "\n{}", self.colours.paint(Some(&self.colours.warning), &warnings));
        }
        let _ = self.out.flush();
    }
}

/// Cuts a line to `columns` characters.
fn fit(line: &str, columns: usize) -> String {
    match line.char_indices().nth(columns) {
        None => line.to_owned(),
        Some(_) if columns <= 3 => line.chars().take(columns).collect(),
        Some(_) => line.chars().take(columns - 3).chain("...".chars()).collect(),
    }
}

/// A length of the emulated terminal, which has at least one line and column.
fn clamp(number: usize) -> NonZeroU16 {
    u16::try_from(number).map_or(NonZeroU16::MAX, |number| NonZeroU16::new(number).unwrap_or(NonZeroU16::MIN))
}

/// A terminal that does not tell its size is taken for the classic one.
fn stderr_size() -> Size {
    let told = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    let of = |number: Option<u16>, default| number.filter(|&number| number > 0).map_or(default, usize::from);
    Size { columns: of(told.map(|size| size.ws_col), 80), rows: of(told.map(|size| size.ws_row), 24) }
}

const LOG_INDENT: &str = " => => # ";
const MOST_PARTS: usize = 256;

/// SGR parameters for each kind of line (`BUILDKIT_COLORS=run=green:warning=yellow:error=red:cancel=255,165,0`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Colours {
    paint: Paint,
    run: String,
    warning: String,
    error: String,
    cancel: String,
}

impl Colours {
    /// BuildKit's colours with the user's changes; an entry that is none changes nothing.
    pub(super) fn from_variable(paint: Paint, variable: Option<&str>) -> Self {
        let mut colours = Self {
            paint,
            run: "34".to_owned(),
            warning: "33".to_owned(),
            error: "31".to_owned(),
            cancel: "33".to_owned(),
        };
        for entry in variable.unwrap_or_default().split(':') {
            let Some((key, value)) = entry.split_once('=') else { continue };
            let Some(code) = colour_code(value) else { continue };
            match key {
                "run" => colours.run = code,
                "warning" => colours.warning = code,
                "error" => colours.error = code,
                "cancel" => colours.cancel = code,
                _ => {}
            }
        }
        colours
    }

    fn paint(&self, code: Option<&String>, text: &str) -> String {
        code.map_or_else(|| text.to_owned(), |code| self.paint.sgr(code, text))
    }

    fn dim(&self, text: &str) -> String {
        self.paint.sgr("2", text)
    }
}

fn colour_code(name: &str) -> Option<String> {
    const NAMES: [&str; 8] = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
    let name = name.to_ascii_lowercase();
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return Some((30 + index).to_string());
    }
    if let Some(index) = name.strip_prefix("light").and_then(|n| NAMES.iter().position(|known| *known == n)) {
        return Some((90 + index).to_string());
    }
    let rgb: Vec<u8> = name.split(',').map(|part| part.trim().parse().ok()).collect::<Option<_>>()?;
    match rgb.as_slice() {
        [red, green, blue] => Some(format!("38;2;{red};{green};{blue}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::*;
    use super::*;

    const SIZE: Size = Size { columns: 60, rows: 24 };

    fn tty(events: &[Event]) -> Tty<Vec<u8>> {
        let colours = Colours::from_variable(Paint::Plain, None);
        let mut tty = Tty::with_size(Vec::new(), Box::new(|| SIZE), LOG_LINES, colours);
        events.iter().for_each(|event| tty.event(event));
        tty
    }

    #[test]
    fn running_steps_show_their_time_and_the_end_of_their_log() {
        let mut running = tty(&failing_build()[..15]);
        running.now = at(1240);
        insta::assert_snapshot!(running.frame(SIZE, false).join("\n"), @r"
        [+] Building 1.2s (3/5)
         => [internal] load build definition from Dockerfile    0.0s
         => CACHED [1/4] FROM docker.io/library/busybox:latest  0.0s
         => CACHED [2/4] RUN apk add make                       0.0s
         => [3/4] RUN make                                      1.2s
         => => # cc a.c
         => => # cc b.c
         => => # b.c:1: no
         => [other 1/1] RUN sleep 9                             1.2s
         => => # zzz
        ");
    }

    #[test]
    fn the_last_picture_shows_every_step_and_how_it_ended() {
        insta::assert_snapshot!(tty(&failing_build()).frame(SIZE, true).join("\n"), @r"
        [+] Building 0.4s (5/5) FINISHED
         => [internal] load build definition from Dockerfile    0.0s
         => CACHED [1/4] FROM docker.io/library/busybox:latest  0.0s
         => CACHED [2/4] RUN apk add make                       0.0s
         => ERROR [3/4] RUN make                                0.4s
         => => # cc a.c
         => => # cc b.c
         => => # b.c:1: no
         => CANCELED [other 1/1] RUN sleep 9                    0.4s
        ");
    }

    #[test]
    fn a_low_terminal_shows_what_runs_before_what_is_done() {
        let mut running = tty(&failing_build()[..15]);
        running.now = at(1240);
        insta::assert_snapshot!(running.frame(Size { columns: 30, rows: 6 }, false).join("\n"), @r"
        [+] Building 1.2s (3/5)
         => [3/4] RUN make        1.2s
         => => # cc a.c
         => => # cc b.c
         => [other 1/1] RUN sl... 1.2s
        ");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let running = tty(&failing_build());
        for columns in 0..70 {
            for line in running.frame(Size { columns, rows: 24 }, true) {
                assert!(line.chars().count() <= columns, "{columns}: {line}");
            }
        }
    }

    #[test]
    fn a_steps_escape_sequences_stay_in_its_own_small_terminal() {
        let mut evil = tty(&[
            step(1, "[1/1] RUN \x1b]0;evil\x07"),
            started(1, 0),
            log(1, b"\x1b]52;c;eA==\x07\x1b[2J\x1b[1;1H10%\r\x1b[31m100%\x1b[0m\x1b[9A\x1b[?1049h", 5),
        ]);
        evil.tick(at(10));
        let text = String::from_utf8(evil.out).unwrap();
        assert!(!text.contains("]52;c;") && !text.contains("\x1b]0") && !text.contains("1049"), "{text:?}");
    }

    #[test]
    fn downloads_are_shown_while_they_last() {
        let mut pulling =
            tty(&[step(1, "[1/1] FROM a"), started(1, 0), progress(1, "sha256:abc", 1_000_000, 4_000_000)]);
        assert_eq!(pulling.frame(SIZE, false)[2], " => => sha256:abc 1MB / 4MB");
        pulling.event(&progress(1, "sha256:abc", 4_000_000, 4_000_000));
        assert_eq!(pulling.frame(SIZE, false).len(), 2);
    }

    #[test]
    fn the_colours_are_the_users() {
        let colours = Colours::from_variable(Paint::Colour, Some("run=green:error=1,2,3:warning=none:x=y"));
        assert_eq!((colours.run.as_str(), colours.error.as_str()), ("32", "38;2;1;2;3"));
        assert_eq!(colours.warning, "33");
    }
}
