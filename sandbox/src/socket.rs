//! Sockets and descriptors that cross the sandbox's border: the ssh agent's, and a terminal's master.
//!
//! The host's own socket is never shown inside, since its owner and mode are the host's and changing them would change
//! the host. A new one is made inside, and the engine passes bytes between the two.

use std::ffi::CStr;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Connections waiting for the relay.
const BACKLOG: i32 = 16;

/// Makes a listening socket `name` in `directory`. In the child; changes the working directory.
pub(crate) fn listen_in(
    directory: BorrowedFd<'_>,
    name: &CStr,
    mode: u32,
    uid: u32,
    gid: u32,
) -> Result<OwnedFd, Errno> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // An address is a path of at most 108 bytes, and there is no bindat(2).
    rustix::process::fchdir(directory)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(name)?)?;
    rustix::fs::chownat(
        directory,
        name,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::empty(),
    )?;
    rustix::fs::chmodat(directory, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Sends a descriptor; does not allocate.
pub(crate) fn send_descriptor(control: BorrowedFd<'_>, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(control, &[io::IoSlice::new(b"d")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a descriptor if one has been sent.
pub(crate) fn receive_descriptor(control: BorrowedFd<'_>) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8; 1];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    rustix::net::recvmsg(control, &mut [io::IoSliceMut::new(&mut byte)], &mut ancillary, flags).ok()?;
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
}

/// Passes connections of a sandbox's socket on to the host's; ends when dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Closing it stops the thread.
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts passing connections to `listener` on to the socket at `target`.
    pub(crate) fn start(listener: OwnedFd, target: PathBuf) -> io::Result<Relay> {
        let (stopped, stop) = io::pipe()?;
        let thread = std::thread::Builder::new().name("kiln-socket".into()).spawn(move || {
            let listener = UnixListener::from(listener);
            loop {
                let mut events =
                    [PollFd::new(&listener, PollFlags::IN), PollFd::new(&stopped, PollFlags::IN)];
                if poll(&mut events, None).is_err_and(|errno| errno != Errno::INTR) {
                    return;
                }
                if !events[1].revents().is_empty() {
                    return;
                }
                if events[0].revents().is_empty() {
                    continue;
                }
                // A connection that cannot be passed on is closed, which its program sees.
                if let (Ok((inner, _)), Ok(outer)) = (listener.accept(), UnixStream::connect(&target)) {
                    let _ = pass_on(inner, outer);
                }
            }
        })?;
        Ok(Relay { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Copies both ways on threads that end with the connection: those inside die with the sandbox.
fn pass_on(inner: UnixStream, outer: UnixStream) -> io::Result<()> {
    let (inner_back, outer_back) = (inner.try_clone()?, outer.try_clone()?);
    for (from, to) in [(inner, outer), (outer_back, inner_back)] {
        std::thread::Builder::new().name("kiln-socket".into()).spawn(move || copy(&from, &to))?;
    }
    Ok(())
}

fn copy(mut from: &UnixStream, mut to: &UnixStream) {
    let mut buffer = [0_u8; 8192];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// A pair of connected sockets for descriptors: the child's end and the parent's.
pub(crate) fn control_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Whether `fd` is one of the three standard ones, which the child overwrites.
pub(crate) fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3)?)
}
