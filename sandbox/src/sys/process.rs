//! Processes and signals.

use std::ffi::{CStr, c_char, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use super::check;

/// Number of signals, and with that the bytes of the kernel's `sigset_t`.
const SIGNALS: i32 = 64;
const SIGSET_BYTES: usize = 8;

/// A process just made.
#[derive(Debug)]
pub(crate) struct Forked {
    pub(crate) pid: i32,
    /// Readable when it has ended.
    pub(crate) pidfd: OwnedFd,
}

/// Makes a process that runs `child` and exits with its answer; `namespaces` are `CLONE_NEW*` bits.
///
/// Its end sends no signal, so that a host program that waits for any child does not take it; [`wait_for`] does. The
/// child is a copy of this thread only, so `child` may not allocate, lock or panic.
pub(crate) fn fork(namespaces: i32, child: impl FnOnce() -> i32) -> io::Result<Forked> {
    let mut pidfd: i32 = -1;
    let mut arguments = libc::clone_args {
        flags: (namespaces as u32 as u64) | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // SAFETY: without CLONE_VM and with no stack given the child goes on upon a copy of this stack and of all memory,
    // as after fork(2), so nothing of the parent can be touched. `pidfd` outlives the call. That other threads' locks
    // stay held in the copy is why `child` may only make system calls, which is its contract above.
    let made =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) });
    let pid = match made {
        // Docker's filter hides clone3, whose flags it cannot see, and lets clone pass.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            let flags = arguments.flags;
            // SAFETY: as above; with CLONE_PIDFD the third argument is where the descriptor is stored, and the others,
            // whose order depends on the architecture, are null.
            check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) })?
        }
        other => other?,
    };
    if pid == 0 {
        // An unwinding child would run the parent's code a second time.
        let _never_return = ExitOnDrop;
        exit_now(child());
    }
    // SAFETY: CLONE_PIDFD made the kernel store a new descriptor that nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked { pid: pid as i32, pidfd })
}

/// As [`fork`], for a process that becomes another program: it runs in this one's memory, on a stack of its own, and this one
/// waits until it has become that program or is gone. Copying the memory would take longer than all that it does there.
///
/// Only for a process of one thread that has no other use for what `child` may write: whatever that changes stays changed.
pub(crate) fn fork_for_exec(namespaces: i32, child: impl FnOnce() -> i32) -> io::Result<Forked> {
    extern "C" fn run<F: FnOnce() -> i32>(child: *mut c_void) -> i32 {
        let _never_return = ExitOnDrop;
        // SAFETY: `fork_for_exec` passes the address of an `Option<F>` that outlives this process's use of its memory.
        let child = unsafe { (*child.cast::<Option<F>>()).take() };
        exit_now(child.map_or(127, |child| child()))
    }
    fn entry<F: FnOnce() -> i32>(_: &F) -> extern "C" fn(*mut c_void) -> i32 {
        run::<F>
    }
    let entry = entry(&child);
    let stack = Stack::new()?;
    let mut child = Some(child);
    let mut pidfd: i32 = -1;
    let flags = namespaces | libc::CLONE_PIDFD | libc::CLONE_VM | libc::CLONE_VFORK;
    // SAFETY: the stack is mapped, of that child alone and unmapped only after CLONE_VFORK has let this thread go on, when
    // the child no longer uses this memory; so are `child` and `pidfd` on this stack, which stands still meanwhile. No other
    // thread is there that could see what the child writes, as the contract above says. With CLONE_PIDFD the fifth argument
    // is where the descriptor is stored.
    let pid = check(unsafe {
        libc::clone(entry, stack.top(), flags, (&raw mut child).cast(), &raw mut pidfd) as libc::c_long
    })?;
    // SAFETY: CLONE_PIDFD made the kernel store a new descriptor that nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked { pid: pid as i32, pidfd })
}

/// Memory for a child's stack; only what is used of it is ever there.
struct Stack(*mut c_void);

impl Stack {
    /// Far more than entering a sandbox takes; unoptimised code takes the most.
    const BYTES: usize = 1 << 20;

    fn new() -> io::Result<Stack> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses overlaps nothing.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), Self::BYTES, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Stack(start);
        // What is below may be in use: an overflow must not reach it.
        // SAFETY: the lowest part of the mapping that was just made and that nobody uses.
        check(unsafe { libc::mprotect(start, Self::GUARD_BYTES, libc::PROT_NONE) as libc::c_long })?;
        Ok(stack)
    }

    /// The largest page of any architecture.
    const GUARD_BYTES: usize = 64 << 10;

    /// Where it begins to grow down from.
    fn top(&self) -> *mut c_void {
        self.0.wrapping_byte_add(Self::BYTES)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the whole mapping that `new` made; whoever ran on it no longer does.
        unsafe { libc::munmap(self.0, Self::BYTES) };
    }
}

struct ExitOnDrop;

impl Drop for ExitOnDrop {
    fn drop(&mut self) {
        exit_now(127);
    }
}

/// Ends the process without running any of the host program's exit handlers.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` takes an integer, touches no memory and does not return.
    unsafe { libc::_exit(status) }
}

/// Waits until `pid`, made by [`fork`], is gone and reaped; answers wait(2)'s status.
pub(crate) fn wait_for(pid: i32) -> io::Result<i32> {
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call and is all that the kernel writes; a null rusage is allowed.
        let waited = check(unsafe {
            let usage = std::ptr::null_mut::<libc::rusage>();
            libc::syscall(libc::SYS_wait4, pid, &raw mut status, libc::__WALL, usage)
        });
        match waited {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(status),
        }
    }
}

/// Makes this process the parent of whatever its descendants leave behind, prctl(2).
pub(crate) fn adopt_orphans() -> io::Result<()> {
    // SAFETY: no pointer is passed; the attribute is this process's own.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })?;
    Ok(())
}

/// How it stands with the children of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Children {
    /// This one has ended with wait(2)'s status.
    Ended { pid: i32, status: i32 },
    /// All run.
    Running,
    /// There are none.
    None,
}

/// Reaps a child that has ended, if there is one; does not wait.
pub(crate) fn reap() -> Children {
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call and is all that the kernel writes; a null rusage is allowed.
        let reaped = check(unsafe {
            let usage = std::ptr::null_mut::<libc::rusage>();
            libc::syscall(libc::SYS_wait4, -1, &raw mut status, libc::__WALL | libc::WNOHANG, usage)
        });
        return match reaped {
            Ok(0) => Children::Running,
            Ok(pid) => Children::Ended { pid: pid as i32, status },
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
            Err(_) => Children::None,
        };
    }
}

/// What the children reaped so far used. Blocks of getrusage(2) have 512 bytes.
pub(crate) fn children_usage() -> RawUsage {
    const BLOCK_BYTES: u64 = 512;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is writable and of the size that the call fills.
    let result = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    if result != 0 {
        return RawUsage::default();
    }
    // SAFETY: rusage consists of integers, for which zeroes are valid, and the call succeeded.
    let usage = unsafe { usage.assume_init() };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    RawUsage {
        cpu_micros: micros(usage.ru_utime) + micros(usage.ru_stime),
        max_rss_bytes: usage.ru_maxrss as u64 * 1024,
        read_bytes: usage.ru_inblock as u64 * BLOCK_BYTES,
        written_bytes: usage.ru_oublock as u64 * BLOCK_BYTES,
    }
}

/// What processes used, in numbers that fit a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawUsage {
    pub(crate) cpu_micros: u64,
    /// Of the largest process.
    pub(crate) max_rss_bytes: u64,
    /// From disk.
    pub(crate) read_bytes: u64,
    /// To disk.
    pub(crate) written_bytes: u64,
}

/// All signals of this thread are blocked until this is dropped.
#[derive(Debug)]
pub(crate) struct SignalsBlocked(u64);

impl SignalsBlocked {
    /// Blocks them, so that no handler of the host program runs in a child forked now.
    pub(crate) fn new() -> io::Result<SignalsBlocked> {
        set_signal_mask(libc::SIG_SETMASK, u64::MAX).map(SignalsBlocked)
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        let _ = set_signal_mask(libc::SIG_SETMASK, self.0);
    }
}

fn set_signal_mask(how: i32, mask: u64) -> io::Result<u64> {
    let mut old = 0_u64;
    // SAFETY: both masks are 64 bits, as the kernel's set of 64 signals and the size passed say, and outlive the call.
    check(unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const mask, &raw mut old, SIGSET_BYTES)
    })?;
    Ok(old)
}

/// Gives every signal its default action and unblocks all: exec keeps ignored and blocked ones, and Rust programs
/// ignore SIGPIPE.
pub(crate) fn reset_signals() {
    // The kernel's `struct sigaction`: handler, flags, restorer (x86), mask; all zero is SIG_DFL. Larger than on any
    // architecture.
    let default = [0_u64; 8];
    for signal in 1..=SIGNALS {
        // SAFETY: `default` is at least as large as the kernel's struct and only read; KILL and STOP give an error,
        // which is harmless.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SIGSET_BYTES,
            )
        };
    }
    let _ = set_signal_mask(libc::SIG_SETMASK, 0);
}

/// Closes descriptors `first` to `last`. For a forked child only, whose descriptors nobody else relies upon.
pub(crate) fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: no memory is passed. The caller is a child about to live on with the descriptors it names; owners of the
    // closed ones are the parent's objects, whose destructors never run in the child (it leaves by `_exit` or exec).
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    Ok(())
}

/// Replaces the program; returns only on failure. Both lists end with a null pointer.
pub(crate) fn execve(path: &CStr, arguments: &PointerList<'_>, environment: &PointerList<'_>) -> io::Error {
    // SAFETY: `path` is NUL-terminated; a `PointerList` holds pointers to NUL-terminated strings that it borrows, and
    // ends with null.
    unsafe {
        libc::syscall(
            libc::SYS_execve,
            path.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        )
    };
    io::Error::last_os_error()
}

/// `argv` or `envp` as execve(2) takes it, made before the fork.
#[derive(Debug)]
pub(crate) struct PointerList<'a> {
    pointers: Vec<*const c_char>,
    strings: std::marker::PhantomData<&'a CStr>,
}

impl<'a> PointerList<'a> {
    /// A list of `strings` in their order.
    pub(crate) fn new(strings: impl Iterator<Item = &'a CStr>) -> PointerList<'a> {
        let pointers = strings.map(CStr::as_ptr).chain([std::ptr::null()]).collect();
        PointerList { pointers, strings: std::marker::PhantomData }
    }
}

/// Where the kernel put this program's arguments and environment, which `/proc/PID/cmdline` and `environ` show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartStrings {
    start: usize,
    length: usize,
}

/// Bytes of arguments and environment at most: a quarter of the largest stack that exec allows.
const START_STRINGS_LIMIT: usize = 6 * 1024 * 1024;

impl StartStrings {
    /// Asks procfs, once; nothing where it does not tell.
    pub(crate) fn of_this_process() -> Option<StartStrings> {
        static KNOWN: OnceLock<Option<StartStrings>> = OnceLock::new();
        *KNOWN.get_or_init(Self::find)
    }

    fn find() -> Option<StartStrings> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may hold anything, so fields are counted from its end: arg_start is the 48th of
        // proc_pid_stat(5), env_end the 51st.
        let (_, after_name) = stat.rsplit_once(')')?;
        let mut fields = after_name.split_ascii_whitespace().skip(45).map(str::parse::<usize>);
        let start = fields.next()?.ok()?;
        let end = fields.nth(2)?.ok()?;
        let length = end.checked_sub(start).filter(|&length| length <= START_STRINGS_LIMIT)?;
        (start != 0).then_some(StartStrings { start, length })
    }

    /// Overwrites them in this process; only for a child that never looks at them again.
    ///
    /// The init of a sandbox is a copy of the engine; the environment may hold the user's secrets.
    pub(crate) fn wipe(self) {
        // SAFETY: the kernel says that these addresses are the arguments and the environment, which lie in the
        // initial stack, mapped writable for the life of the process. This is a forked copy of it with one thread,
        // which makes system calls only and holds no reference into that memory.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(self.start).write_bytes(0, self.length) };
    }
}

/// Joins a new, empty session keyring, so that the user's keys stay out of reach.
pub(crate) fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: a null name is allowed and asks for an anonymous keyring.
    check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<c_char>())
    })?;
    Ok(())
}

/// Sets a limit of this process by the kernel's number, setrlimit(2).
pub(crate) fn set_raw_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = [soft, hard];
    // SAFETY: `limit` has the layout of the kernel's rlimit64, is only read; a null old limit is allowed.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), std::ptr::null_mut::<u64>())
    })?;
    Ok(())
}

/// Brings `lo` of this network namespace up; the kernel then gives it its addresses.
pub(crate) fn bring_loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as c_char;
    request.ifr_name[1] = b'o' as c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is; it outlives the call.
    check(unsafe {
        libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    })?;
    Ok(())
}

/// Whether the current directory lies under the root: getcwd(2) says `(unreachable)` of one that does not.
pub(crate) fn current_directory_is_reachable() -> bool {
    let mut buffer = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: the kernel writes at most the length passed, which is the buffer's.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    length > 0 && buffer[0] == b'/'
}

/// Puts this process, which must have one thread, into a new user namespace, in which it has every right.
pub(crate) fn unshare_users() -> io::Result<()> {
    // SAFETY: no pointer is passed, no memory, descriptor or thread changes hands.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER) })?;
    Ok(())
}

/// Gives this process, which must have one thread, a copy of its mounts that its user namespace owns.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: no pointer is passed, and descriptors go on to mean the same files.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNS) })?;
    Ok(())
}

/// Puts this thread alone into a new, empty network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: no pointer is passed, no memory or descriptor changes hands; sockets that are open keep their network.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNET) })?;
    Ok(())
}

/// Gives this process a control-group namespace whose root is its present group.
pub(crate) fn unshare_control_groups() -> io::Result<()> {
    // SAFETY: no pointer is passed, and a new control-group namespace changes only what procfs and cgroupfs show.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWCGROUP) })?;
    Ok(())
}
