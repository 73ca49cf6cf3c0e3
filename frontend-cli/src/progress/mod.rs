//! What a build tells, shown: one stream of events, one display at a time.
//!
//! The engine's threads send; one thread owns the display, so that no display needs locks. It does not get up for each
//! event: what comes within [`GATHER`] of the first is shown with it. The channel is bounded: a step that floods its log
//! waits for the screen and takes no memory. Displays write to standard error.

mod log_file;
mod plain;
mod quiet;
mod rawjson;
mod tty;

use std::collections::HashMap;
use std::io::{BufWriter, IsTerminal as _};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use kiln::{Event, StepId};

pub(crate) use log_file::LogFile;

use crate::report::Paint;

/// `--progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `tty` on a terminal, else `plain`.
    Auto,
    /// Lines.
    Plain,
    /// A picture that is redrawn.
    Tty,
    /// BuildKit's solve status as JSON lines.
    RawJson,
    /// Nothing. Also `none`.
    Quiet,
}

impl Mode {
    /// The mode asked for: the flag, or where that is `auto` the variable `BUILDKIT_PROGRESS` (FEATURES CL31).
    pub(crate) fn choose(flag: &str, variable: Option<&str>) -> Result<Self, String> {
        let (name, origin) = match (flag, variable) {
            ("auto", Some(name)) if !name.is_empty() => (name, "BUILDKIT_PROGRESS"),
            _ => (flag, "--progress"),
        };
        match name {
            "auto" => Ok(Self::Auto),
            "plain" => Ok(Self::Plain),
            "tty" => Ok(Self::Tty),
            "rawjson" => Ok(Self::RawJson),
            "quiet" | "none" => Ok(Self::Quiet),
            _ => {
                Err(format!("{origin}: there is no `{name}`, only auto, plain, tty, rawjson, quiet and none"))
            }
        }
    }
}

/// Shows events. Times are since the start of the build.
trait Display: Send {
    /// Takes one event.
    fn event(&mut self, event: &Event);
    /// Time has passed. Called often enough for a display that redraws.
    fn tick(&mut self, now: Duration);
    /// No event waits: what was written has to be seen now.
    fn pause(&mut self) {}
    /// Nothing more comes.
    fn finish(&mut self, now: Duration);
}

/// The display of one build.
pub(crate) struct Progress {
    sender: SyncSender<Message>,
    thread: JoinHandle<Summary>,
}

/// What the end of a command needs to know of the events.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    /// Name of the first step that failed.
    pub failed_step: Option<String>,
}

enum Message {
    Event(Event),
    Finish,
}

impl Progress {
    /// Starts a display that writes to a file.
    pub(crate) fn start_in(log: &LogFile, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        Ok(Self::show(log.display(cuts_names(env))?, IDLE_TICK))
    }

    /// Starts the display.
    pub(crate) fn start(mode: Mode, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let is_terminal = std::io::stderr().is_terminal();
        let number = |name: &str| env(name).and_then(|value| value.parse::<u64>().ok());
        let mut every = IDLE_TICK;
        let display: Box<dyn Display> = match mode {
            Mode::Tty if !is_terminal => {
                return Err("--progress=tty needs a terminal on standard error".into());
            }
            Mode::Auto | Mode::Tty if is_terminal => {
                every = number("TTY_DISPLAY_RATE").map_or(REDRAW, Duration::from_millis).max(FASTEST_REDRAW);
                let log_lines = number("BUILDKIT_TTY_LOG_LINES").map_or(tty::LOG_LINES, |lines| {
                    usize::try_from(lines).unwrap_or(tty::LOG_LINES).min(tty::MOST_LOG_LINES)
                });
                let colours =
                    tty::Colours::from_variable(Paint::for_stderr(), env("BUILDKIT_COLORS").as_deref());
                Box::new(tty::Tty::new(std::io::stderr(), log_lines, colours))
            }
            Mode::Auto | Mode::Tty | Mode::Plain => {
                Box::new(plain::Plain::new(BufWriter::new(std::io::stderr()), cuts_names(env)))
            }
            Mode::RawJson => {
                let out = BufWriter::new(std::io::stderr());
                Box::new(rawjson::RawJson::new(out, jiff::Timestamp::now()))
            }
            Mode::Quiet => Box::new(quiet::Quiet),
        };
        Ok(Self::show(display, every))
    }

    fn show(display: Box<dyn Display>, every: Duration) -> Self {
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::spawn(move || show(display, &receiver, every));
        Self { sender, thread }
    }

    /// Where the engine sends its events.
    pub(crate) fn sink(&self) -> impl Fn(Event) + Send + Sync + use<> {
        let (sender, display) = (self.sender.clone(), self.thread.thread().clone());
        move |event| send(&sender, &display, Message::Event(event))
    }

    /// Shows what is left and ends the display.
    pub(crate) fn finish(self) -> Summary {
        // The engine may still hold sinks, so the end is said and not left to the channel's closing.
        send(&self.sender, self.thread.thread(), Message::Finish);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_default()
    }
}

/// Hands `message` to the thread of the display, which is called if it gathers while the queue is full.
fn send(sender: &SyncSender<Message>, display: &Thread, message: Message) {
    if let Err(TrySendError::Full(message)) = sender.try_send(message) {
        display.unpark();
        // After the end nobody looks any more.
        let _ = sender.send(message);
    }
}

fn show(
    mut display: Box<dyn Display>,
    receiver: &std::sync::mpsc::Receiver<Message>,
    every: Duration,
) -> Summary {
    let start = Instant::now();
    let mut names: HashMap<StepId, String> = HashMap::new();
    let mut summary = Summary::default();
    let mut last_tick = Duration::ZERO;
    loop {
        let next = receiver.try_recv().or_else(|_| {
            display.pause();
            let next = receiver.recv_timeout((last_tick + every).saturating_sub(start.elapsed()));
            if let Ok(Message::Event(_)) = next {
                std::thread::park_timeout(GATHER);
            }
            next
        });
        match next {
            Ok(Message::Event(event)) => {
                match &event {
                    Event::Step { id, name, .. } => {
                        names.insert(*id, name.clone());
                    }
                    Event::Failed { id, .. } if summary.failed_step.is_none() => {
                        summary.failed_step = names.get(id).cloned();
                    }
                    _ => {}
                }
                display.event(&event);
            }
            Err(RecvTimeoutError::Timeout) => {
                last_tick = start.elapsed();
                display.tick(last_tick);
            }
            Ok(Message::Finish) | Err(RecvTimeoutError::Disconnected) => {
                display.finish(start.elapsed());
                return summary;
            }
        }
    }
}

/// Events that may wait for the screen.
const QUEUE: usize = 1024;
/// Nobody reads faster than this, and a build of which everything is cached is over sooner.
const GATHER: Duration = Duration::from_millis(10);
/// How often a display that need not redraw hears of the time.
const IDLE_TICK: Duration = Duration::from_millis(500);
/// BuildKit's rate.
const REDRAW: Duration = Duration::from_millis(100);
const FASTEST_REDRAW: Duration = Duration::from_millis(10);

/// Whether the plain display cuts long names.
fn cuts_names(env: &dyn Fn(&str) -> Option<String>) -> bool {
    env("PROGRESS_NO_TRUNC").as_deref() == Some("0")
}

/// The step that an event is of.
fn step_of(event: &Event) -> Option<StepId> {
    match event {
        Event::Step { id, .. }
        | Event::Started { id, .. }
        | Event::Cached { id, .. }
        | Event::Waiting { id, .. }
        | Event::Log { id, .. }
        | Event::Progress { id, .. }
        | Event::Done { id, .. }
        | Event::Failed { id, .. }
        | Event::Canceled { id, .. } => Some(*id),
        _ => None,
    }
}

/// `sha256:… 1.2MB / 3.4MB`.
fn part_text(part: &str, current: u64, total: Option<u64>) -> String {
    let done = crate::human::size(current);
    match total {
        Some(total) => format!("{part} {done} / {}", crate::human::size(total)),
        None if current == 0 => part.to_owned(),
        None => format!("{part} {done}"),
    }
}

/// `3 warnings found:` and one line for each.
fn warnings_text(warnings: &[(Option<&'static str>, String, Option<u32>)]) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let count = warnings.len();
    let mut text = format!(" {count} warning{} found:\n", if count == 1 { "" } else { "s" });
    for (rule, message, line) in warnings {
        let rule = rule.map(|rule| format!("{rule}: ")).unwrap_or_default();
        let line = line.map(|line| format!(" (line {line})")).unwrap_or_default();
        text += &format!(" - {rule}{}{line}\n", crate::printable::printable(message));
    }
    text
}

#[cfg(test)]
mod script {
    //! A build told by hand, for the displays' tests.

    use super::*;
    use kiln::LogStream;

    pub(super) fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    pub(super) fn step(id: u32, name: &str) -> Event {
        Event::Step { id: StepId(id), name: name.into(), inputs: Vec::new() }
    }
    pub(super) fn started(id: u32, millis: u64) -> Event {
        Event::Started { id: StepId(id), at: at(millis) }
    }
    pub(super) fn cached(id: u32, millis: u64) -> Event {
        Event::Cached { id: StepId(id), at: at(millis) }
    }
    pub(super) fn done(id: u32, millis: u64) -> Event {
        Event::Done { id: StepId(id), at: at(millis) }
    }
    pub(super) fn failed(id: u32, message: &str, millis: u64) -> Event {
        Event::Failed { id: StepId(id), message: message.into(), at: at(millis) }
    }
    pub(super) fn canceled(id: u32, millis: u64) -> Event {
        Event::Canceled { id: StepId(id), at: at(millis) }
    }
    pub(super) fn log(id: u32, bytes: &[u8], millis: u64) -> Event {
        Event::Log { id: StepId(id), stream: LogStream::Stdout, bytes: bytes.into(), at: at(millis) }
    }
    pub(super) fn progress(id: u32, part: &str, current: u64, total: u64) -> Event {
        Event::Progress { id: StepId(id), part: part.into(), current, total: Some(total) }
    }

    /// A build of two steps, one found, one that fails while another runs.
    pub(super) fn failing_build() -> Vec<Event> {
        vec![
            step(1, "[internal] load build definition from Dockerfile"),
            started(1, 0),
            done(1, 12),
            step(2, "[1/4] FROM docker.io/library/busybox:latest"),
            step(3, "[2/4] RUN apk add make"),
            step(4, "[3/4] RUN make"),
            step(5, "[other 1/1] RUN sleep 9"),
            cached(2, 20),
            cached(3, 30),
            started(4, 40),
            log(4, b"cc a.c\n\x1b[31mcc b.c\x1b[0m\n", 163),
            started(5, 50),
            log(5, b"zzz\n", 200),
            log(4, b"b.c:1: ", 300),
            log(4, b"no\n", 350),
            failed(4, "process \"/bin/sh -c make\" did not complete successfully: exit code: 2", 400),
            canceled(5, 420),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_counts_only_where_the_flag_is_auto() {
        assert_eq!(Mode::choose("auto", Some("plain")), Ok(Mode::Plain));
        assert_eq!(Mode::choose("tty", Some("plain")), Ok(Mode::Tty));
        assert_eq!(Mode::choose("auto", None), Ok(Mode::Auto));
        assert_eq!(Mode::choose("none", None), Ok(Mode::Quiet));
        assert!(Mode::choose("auto", Some("x")).unwrap_err().starts_with("BUILDKIT_PROGRESS"));
    }

    #[test]
    fn the_summary_names_the_step_that_failed() {
        let progress = Progress::start(Mode::Quiet, &|_| None).unwrap();
        let sink = progress.sink();
        script::failing_build().into_iter().for_each(sink);
        assert_eq!(progress.finish().failed_step.as_deref(), Some("[3/4] RUN make"));
    }
}
