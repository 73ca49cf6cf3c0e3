//! The parent's side: starts the child, streams its output, cancels it, cleans up after it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::binfmt;
use crate::control_group::{ControlGroup, Holder};
use crate::emulate::Emulation;
use crate::enter::Execution;
use crate::on_demand::OnDemand;
use crate::plan::{ChildDescriptors, ChildStdio, Plan, setup};
use crate::report::{Report, Step};
use crate::socket::{Relay, above_stdio, control_pair, receive_descriptor};
use crate::stubs::{self, Stub};
use crate::sys::{self, Forked, PointerList, SignalsBlocked};
use crate::terminal::{Session, size_of};
use crate::{
    Exit, ExitStatus, Io, Network, NetworkError, OciRuntime, Output, SandboxError, Spec, Usage, oci,
    supervise,
};

/// How often the cancel flag is looked at.
const CANCEL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 25_000_000 };
/// A thread that only waits needs little.
const REAPER_STACK_BYTES: usize = 64 * 1024;
/// Bytes read from a stream at a time: a pipe's whole content.
const READ_BYTES: usize = 64 * 1024;

/// Runs `spec` to its end. Output is given to `output` as it comes; when `cancel` goes up everything in the sandbox is
/// killed and [`SandboxError::Canceled`] returned.
///
/// Works from several threads at once. A slow `output` slows the command down and nothing else.
///
/// # Errors
/// See [`SandboxError`]; a command that ran and failed is no error but an [`Exit`].
pub fn run(
    spec: &Spec,
    output: &mut dyn FnMut(Output, &[u8]),
    cancel: &AtomicBool,
) -> Result<Exit, SandboxError> {
    run_by(None, spec, output, cancel)
}

/// The same by an OCI runtime, where there is one.
pub(crate) fn run_by(
    runtime: Option<&OciRuntime>,
    spec: &Spec,
    output: &mut dyn FnMut(Output, &[u8]),
    cancel: &AtomicBool,
) -> Result<Exit, SandboxError> {
    if cancel.load(Ordering::Relaxed) {
        return Err(SandboxError::Canceled);
    }
    let holder = runtime.map_or(Holder::Sandbox, |_| Holder::Runtime(spec.security));
    let group = ControlGroup::create(&spec.limits.resources, holder, &spec.mounts)
        .map_err(|error| setup("making a control group", error))?;
    let plan = Plan::new(spec, runtime, &group)?;
    if let Network::Isolated(network) = &spec.network
        && !plan.on_demand
    {
        network.wait().map_err(SandboxError::Network)?;
    }
    run_planned(spec, &plan, &group, output, cancel)
}

/// Runs what is planned to its end.
pub(crate) fn run_planned(
    spec: &Spec,
    plan: &Plan,
    group: &ControlGroup,
    output: &mut dyn FnMut(Output, &[u8]),
    cancel: &AtomicBool,
) -> Result<Exit, SandboxError> {
    let mut sandbox = Sandbox::start(spec, plan, group).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS | libc::ENOSPC) if plan.tree.is_none() => {
            SandboxError::NoNamespaces(error)
        }
        _ => setup("starting the sandbox", error),
    })?;
    let streamed = sandbox.stream(spec, plan, output, cancel);
    let ended = match &streamed {
        Ok(Streamed::ToTheEnd) => sandbox.supervisor.end_in_background(),
        _ => {
            sandbox.supervisor.kill();
            sandbox.supervisor.end()
        }
    };
    let reports = Report::parse_all(&sandbox.reports);

    // Whatever happened, the upper directory must not keep what kiln put there.
    let made: Vec<Stub<'_>> = reports
        .iter()
        .filter_map(|report| match *report {
            Report::Stub { inode, directory, path } => Some(Stub { inode, directory, path }),
            _ => None,
        })
        .collect();
    let cleaned = stubs::remove(&spec.rootfs.upper, &spec.rootfs.layers, &made);
    let timed_out = match streamed.map_err(|error| setup("reading the sandbox's output", error))? {
        Streamed::Canceled => return Err(SandboxError::Canceled),
        Streamed::NoNetwork(error) => return Err(SandboxError::Network(error)),
        Streamed::TimedOut => true,
        Streamed::ToTheEnd => false,
    };
    ended.map_err(|error| setup("waiting for the sandbox", error))?;
    cleaned.map_err(|error| setup("removing mount points from the layer", error))?;
    let mut exit = conclude(spec, plan, &reports, group)?;
    exit.timed_out = timed_out;
    Ok(exit)
}

/// Makes the result of what the child reported.
fn conclude(
    spec: &Spec,
    plan: &Plan,
    reports: &[Report<'_>],
    group: &ControlGroup,
) -> Result<Exit, SandboxError> {
    let mut ended = None;
    let mut logged: &[u8] = &[];
    for report in reports {
        match *report {
            Report::Failed { step: step @ Step::User, index, errno: libc::EINVAL } => {
                let why = "this user namespace has no such id; `kiln doctor` says how to get it";
                return Err(setup(&plan.describe(step, index as usize), io::Error::other(why)));
            }
            Report::Failed { step, index, errno } => {
                return Err(SandboxError::Setup {
                    step: plan.describe(step, index as usize),
                    source: io::Error::from_raw_os_error(errno),
                });
            }
            Report::NotExecuted { errno, found } => return Err(not_executed(spec, errno, found)),
            Report::Ended { wait_status, usage } => {
                let usage = Usage {
                    cpu: Duration::from_micros(usage.cpu_micros),
                    // What all of them had at once, where somebody counted.
                    peak_memory_bytes: group.peak_memory_bytes().unwrap_or(usage.max_rss_bytes),
                    read_bytes: usage.read_bytes,
                    written_bytes: usage.written_bytes,
                };
                ended = Some((wait_status, usage));
            }
            Report::RuntimeLog { text } => logged = text,
            Report::Stub { .. } => {}
        }
    }
    // Without a word the supervisor was killed: by the user, or for memory.
    let (status, usage) = match ended {
        Some((wait_status, usage)) => {
            let status = std::process::ExitStatus::from_raw(wait_status);
            let by_signal = status.signal().map(ExitStatus::Signal);
            (by_signal.unwrap_or(ExitStatus::Code(status.code().unwrap_or_default())), usage)
        }
        None => (ExitStatus::Signal(libc::SIGKILL), Usage::default()),
    };
    if let Some(runtime) = plan.runtime.as_ref().filter(|_| status != ExitStatus::Code(0))
        && let Some(failure) = oci::failure(&runtime.name, logged, spec)
    {
        return Err(failure);
    }
    Ok(Exit { status, usage, oom_killed: group.oom_killed(), timed_out: false })
}

fn not_executed(spec: &Spec, errno: i32, found: bool) -> SandboxError {
    let command = spec.argv.first().map(|command| command.to_string_lossy().into_owned()).unwrap_or_default();
    match (errno, found) {
        (libc::ENOENT | libc::ENOTDIR, false) => SandboxError::CommandNotFound(command),
        (libc::ENOENT, true) => SandboxError::CommandNotFound(format!("{command} (or its interpreter)")),
        _ => SandboxError::NotExecutable { command, source: io::Error::from_raw_os_error(errno) },
    }
}

#[derive(Debug)]
enum Streamed {
    ToTheEnd,
    Canceled,
    TimedOut,
    NoNetwork(NetworkError),
}

/// A started sandbox.
#[derive(Debug)]
struct Sandbox {
    supervisor: Supervisor,
    /// `None` at their ends.
    report: Option<OwnedFd>,
    control: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// Bytes of reports so far.
    reports: Vec<u8>,
}

/// The process between the engine and the command.
#[derive(Debug)]
struct Supervisor {
    process: Forked,
    /// The first process inside; when it goes, so does everything in the sandbox. Without one nothing was started.
    command: Option<OwnedFd>,
    reaped: bool,
}

impl Supervisor {
    /// Waits until all processes of the sandbox are gone.
    fn end(&mut self) -> io::Result<()> {
        if !self.reaped {
            self.reaped = true;
            sys::wait_for(self.process.pid)?;
        }
        Ok(())
    }

    /// Leaves the reaping to a thread: every process inside is gone already, and the kernel takes the mounts apart
    /// before the supervisor can be reaped.
    fn end_in_background(&mut self) -> io::Result<()> {
        match reaper() {
            Some(reaper) if reaper.send(self.process.pid).is_ok() => {
                self.reaped = true;
                Ok(())
            }
            _ => self.end(),
        }
    }

    /// Kills everything inside and waits for its end, even if the supervisor itself was killed. It ends by itself then.
    fn kill(&self) {
        let Some(command) = &self.command else { return };
        let _ = pidfd_send_signal(command, Signal::KILL);
        while let Err(Errno::INTR) = poll(&mut [PollFd::new(command, PollFlags::IN)], None) {}
    }
}

/// The way to a thread that waits for supervisors, one after another, as long as this process lives: to start one for each
/// would take longer than most of them do to end.
fn reaper() -> Option<&'static Sender<i32>> {
    static REAPER: OnceLock<Option<Sender<i32>>> = OnceLock::new();
    let start = || {
        let (sender, ended) = channel();
        std::thread::Builder::new()
            .name("kiln-reaper".into())
            .stack_size(REAPER_STACK_BYTES)
            .spawn(move || ended.into_iter().for_each(|pid| drop(sys::wait_for(pid))))
            .ok()
            .map(|_| sender)
    };
    REAPER.get_or_init(start).as_ref()
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.end();
        }
    }
}

impl Sandbox {
    fn start(spec: &Spec, plan: &Plan, group: &ControlGroup) -> io::Result<Sandbox> {
        let (report, child_report) = pipe()?;
        let (control, child_control) = control_pair()?;
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let engine = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
        let (mut stdout, mut stderr) = (None, None);
        let stdio = match &spec.io {
            Io::Captured => {
                let (out, child_out) = pipe()?;
                let (err, child_err) = pipe()?;
                (stdout, stderr) = (Some(out), Some(err));
                ChildStdio::Given {
                    stdin: None,
                    stdout: above_stdio(child_out)?,
                    stderr: above_stdio(child_err)?,
                }
            }
            Io::Inherit { stdin, stdout, stderr } => ChildStdio::Given {
                stdin: stdin.as_ref().map(duplicate).transpose()?,
                stdout: duplicate(stdout)?,
                stderr: duplicate(stderr)?,
            },
            Io::Terminal(user) => ChildStdio::Terminal(size_of(user)),
        };
        let descriptors = ChildDescriptors {
            null: above_stdio(null)?,
            report: above_stdio(child_report)?,
            control: above_stdio(child_control)?,
            engine: above_stdio(engine)?,
            stdio,
            control_groups: &group.joins,
            user_namespace: match &plan.emulator {
                Some(_) => Some(above_stdio(binfmt::user_namespace()?)?),
                None => None,
            },
            network: match &spec.network {
                Network::Isolated(network) => Some(above_stdio(duplicate(network.namespace())?)?),
                Network::None | Network::Host => None,
            },
        };
        let (argv, env) = match &plan.runtime {
            Some(runtime) => (&runtime.argv, &runtime.env),
            None => (&plan.argv, &plan.env),
        };
        let execution = Execution {
            argv: PointerList::new(argv.iter().map(|argument| argument.as_c_str())),
            env: PointerList::new(env.iter().map(|entry| entry.as_c_str())),
        };
        let blocked = SignalsBlocked::new()?;
        let process =
            sys::fork(supervise::namespaces(plan), || supervise::supervise(plan, &descriptors, &execution))?;
        drop(blocked);
        let command = first_process(&process, &control);
        let supervisor = Supervisor { process, command, reaped: false };
        Ok(Sandbox {
            supervisor,
            report: Some(report),
            control: Some(control),
            stdout,
            stderr,
            reports: Vec::new(),
        })
    }

    /// Streams until nothing inside runs any more.
    fn stream(
        &mut self,
        spec: &Spec,
        plan: &Plan,
        output: &mut dyn FnMut(Output, &[u8]),
        cancel: &AtomicBool,
    ) -> io::Result<Streamed> {
        let deadline = spec.limits.time.and_then(|time| Instant::now().checked_add(time));
        // Not zeroed: the copies of this process that are being started would each copy its pages once more.
        let mut buffer = Vec::with_capacity(READ_BYTES);
        let mut session: Option<Session<'_>> = None;
        let mut relays: Vec<Relay> = Vec::new();
        let mut emulation = None;
        let mut on_demand: Option<OnDemand> = None;
        loop {
            let ready = self.wait(session.as_ref(), on_demand.as_ref())?;
            if cancel.load(Ordering::Relaxed) {
                return Ok(Streamed::Canceled);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Streamed::TimedOut);
            }
            if let Some(on_demand) = &mut on_demand {
                on_demand.take_up(ready.asks);
                if let Some(error) = on_demand.failure() {
                    return Ok(Streamed::NoNetwork(error));
                }
            }
            // A descriptor is sent before what is reported, and may have come while the rest was asked.
            while (ready.control || ready.report || ready.ended)
                && let Some(descriptor) = self.control.as_ref().and_then(|fd| receive_descriptor(fd.as_fd()))
            {
                // The sockets come first, in the order of the mounts; then a terminal's master, then the listener.
                match (plan.sockets.get(relays.len()), &spec.io, &plan.emulated) {
                    (Some(target), ..) => relays.push(Relay::start(descriptor, target.clone())?),
                    (None, Io::Terminal(user), _) if session.is_none() => {
                        session = Some(Session::new(user, descriptor)?);
                    }
                    (None, _, Some(emulated)) if emulation.is_none() => {
                        emulation = Some(Emulation::start(descriptor, emulated.first.clone())?);
                    }
                    (None, ..) => {
                        if let Network::Isolated(network) = &spec.network
                            && plan.on_demand
                        {
                            on_demand.get_or_insert_with(|| OnDemand::new(descriptor, Arc::clone(network)));
                        }
                    }
                }
            }
            // A descriptor at its end is always ready: the loop would spin.
            if ready.control_closed {
                self.control = None;
            }
            let ended = (ready.report && self.read_reports(&mut buffer)) || ready.ended;
            if let Some(session) = &mut session {
                session.copy_size();
                session.write_typed();
                if ready.input {
                    session.read_input();
                }
                session.copy_output();
            }
            // After the end until nothing is left: what was written last is still in the pipes. The pipes' ends are
            // not waited for, since a descriptor passed to a process outside would keep them open.
            loop {
                let out =
                    (ready.stdout || ended) && drain(&mut self.stdout, Output::Stdout, &mut buffer, output);
                let err =
                    (ready.stderr || ended) && drain(&mut self.stderr, Output::Stderr, &mut buffer, output);
                if !(ended && (out || err)) {
                    break;
                }
            }
            if ended {
                if !self.read_reports(&mut buffer) {
                    // The supervisor was killed, for memory or by the user; the command must not outlive it.
                    self.supervisor.kill();
                }
                return Ok(Streamed::ToTheEnd);
            }
        }
    }

    /// Reads what has been reported; `true` when that says that nothing runs any more.
    fn read_reports(&mut self, buffer: &mut Vec<u8>) -> bool {
        while let Some(report) = &self.report {
            buffer.clear();
            match rustix::io::read(report, spare_capacity(buffer)) {
                Ok(1..) => self.reports.extend_from_slice(buffer),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                _ => self.report = None,
            }
        }
        Report::parse_all(&self.reports).iter().any(|report| matches!(report, Report::Ended { .. }))
    }

    fn wait(&self, session: Option<&Session<'_>>, on_demand: Option<&OnDemand>) -> io::Result<Ready> {
        let mut events = Vec::with_capacity(8);
        events.push(PollFd::new(&self.supervisor.process.pidfd, PollFlags::IN));
        let streams = [&self.control, &self.report, &self.stdout, &self.stderr];
        let streams_at = streams.map(|stream| {
            let stream = stream.as_ref()?;
            events.push(PollFd::new(stream, PollFlags::IN));
            Some(events.len() - 1)
        });
        let mut listener_at = None;
        if let Some(listener) = on_demand.and_then(OnDemand::listener) {
            listener_at = Some(events.len());
            events.push(PollFd::from_borrowed_fd(listener, PollFlags::IN));
        }
        let mut input_at = None;
        if let Some(session) = session {
            let (master, input) = session.descriptors();
            let wanted = if session.has_typed() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            events.push(PollFd::from_borrowed_fd(master, wanted));
            if let Some(input) = input {
                input_at = Some(events.len());
                events.push(PollFd::from_borrowed_fd(input, PollFlags::IN));
            }
        }
        match poll(&mut events, Some(&CANCEL_INTERVAL)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = |index: usize| events.get(index).map_or(PollFlags::empty(), PollFd::revents);
        let [control, report, stdout, stderr] =
            streams_at.map(|at: Option<usize>| at.map_or(PollFlags::empty(), flags));
        Ok(Ready {
            ended: !flags(0).is_empty(),
            control: !control.is_empty(),
            control_closed: control.contains(PollFlags::HUP),
            report: !report.is_empty(),
            stdout: !stdout.is_empty(),
            stderr: !stderr.is_empty(),
            input: input_at.is_some_and(|at| !flags(at).is_empty()),
            asks: listener_at.map_or(PollFlags::empty(), flags),
        })
    }
}

/// What poll(2) says of each: only what is ready is read.
#[derive(Clone, Copy, Debug)]
struct Ready {
    ended: bool,
    control: bool,
    control_closed: bool,
    report: bool,
    stdout: bool,
    stderr: bool,
    input: bool,
    /// Of the listener for calls that want the network.
    asks: PollFlags,
}

/// Reads one stream once; `true` when there was something.
fn drain(
    stream: &mut Option<OwnedFd>,
    kind: Output,
    buffer: &mut Vec<u8>,
    output: &mut dyn FnMut(Output, &[u8]),
) -> bool {
    let Some(fd) = stream else { return false };
    buffer.clear();
    match rustix::io::read(&*fd, spare_capacity(buffer)) {
        Ok(1..) => {
            output(kind, buffer);
            true
        }
        Err(Errno::AGAIN | Errno::INTR) => false,
        // At its end: polling it further would spin.
        _ => {
            *stream = None;
            false
        }
    }
}

/// Waits for the descriptor of the sandbox's first process, which it sends before all else; `None` when the supervisor
/// ended without starting it.
fn first_process(supervisor: &Forked, control: &OwnedFd) -> Option<OwnedFd> {
    loop {
        let mut events = [PollFd::new(control, PollFlags::IN), PollFd::new(&supervisor.pidfd, PollFlags::IN)];
        match poll(&mut events, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return None,
            Ok(_) => {}
        }
        let has_ended = !events[1].revents().is_empty();
        let process = receive_descriptor(control.as_fd());
        if process.is_some() || has_ended {
            return process;
        }
    }
}

/// A pipe whose reading end does not block.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK)?;
    Ok((reader, writer))
}

fn duplicate(fd: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}
