//! Owners and users where the kernel has one id only, by answering the system calls that are about them.
//!
//! In a user namespace with a single id every process is user 0 and every file is its. So that `chown`, `useradd` and
//! what drops its rights work all the same, a filter hands the calls about owners and users to a thread of the engine
//! (seccomp_unotify(2)), which keeps who each process says to be ([`credentials`], [`identities`]) and each file's owner
//! in an attribute beside it ([`OWNER_ATTRIBUTE`]), where the packing of layers finds it.
//!
//! Not by ptrace(2), which stops a process at every call, nor by a library in each program, which static ones do not
//! load. A call whose answer would be the kernel's own is left to the kernel: for files without the attribute, and for
//! processes that are root.
//!
//! The process is hostile. Its memory is read once, and what was read is acted upon; a path is resolved with the
//! process's own root, through no magic link, to a descriptor, and only that is used. The engine writes the attribute,
//! makes files that the process could make itself, and nothing else. Users inside are *not* apart from one another: the
//! kernel sees one, with all rights over the image. Writing what another user owns is refused ([`files`]), as programs
//! that try it expect, but no more than that.

mod calls;
mod credentials;
mod files;
mod filter;
mod identities;
mod process;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

pub(crate) use credentials::Credentials;
pub(crate) use filter::FILTER;

use identities::Identities;
use process::Host;

/// The attribute of a file's owner, `UID:GID` in decimal.
pub const OWNER_ATTRIBUTE: &str = "user.kiln.owner";

/// The thread that answers; it ends with the sandbox, or when this is dropped.
#[derive(Debug)]
pub(crate) struct Emulation {
    /// Closing it stops the thread.
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Emulation {
    /// Starts answering what arrives at `listener`; processes are `first` until they say otherwise.
    pub(crate) fn start(listener: OwnedFd, first: Credentials) -> io::Result<Emulation> {
        let host = Host::open()?;
        let (stopped, stop) = io::pipe()?;
        let thread = std::thread::Builder::new().name("kiln-owners".into()).spawn(move || {
            // The listener is closed then, and every call that it should answer fails.
            if crate::sys::unshare_folders().is_err() {
                return;
            }
            rustix::process::umask(rustix::fs::Mode::empty());
            crate::sys::wake_at_once(listener.as_fd());
            let mut identities = Identities::new(first);
            loop {
                let mut events =
                    [PollFd::new(&listener, PollFlags::IN), PollFd::new(&stopped, PollFlags::IN)];
                if poll(&mut events, None).is_err_and(|errno| errno != Errno::INTR) {
                    return;
                }
                if !events[1].revents().is_empty() || events[0].revents().contains(PollFlags::HUP) {
                    return;
                }
                if events[0].revents().is_empty() {
                    continue;
                }
                // A thread that was killed meanwhile needs no answer.
                let Ok(call) = crate::sys::receive(listener.as_fd()) else { continue };
                let answer = calls::answer(&host, listener.as_fd(), &call, &mut identities);
                let _ = crate::sys::answer(listener.as_fd(), call.id, answer);
            }
        })?;
        Ok(Emulation { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Emulation {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
