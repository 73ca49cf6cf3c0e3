//! A network that is connected when a step first asks for a socket. Most steps never do, and starting pasta costs more than
//! such a step.
//!
//! The step's filter hands socket(2) over for everything but Unix sockets (seccomp_unotify(2)); the answer is always that
//! the kernel may go on, once the network is there. Nothing that the call says is looked at, so nothing is decided here that
//! the process could change behind the engine's back.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::network::{IsolatedNetwork, NetworkError};
use crate::sys::{self, Answer};

/// Who answers for one step.
#[derive(Debug)]
pub(crate) struct OnDemand {
    network: Arc<IsolatedNetwork>,
    /// Where the step's calls arrive, until a thread has it.
    listener: Option<OwnedFd>,
    failures: (Sender<NetworkError>, Receiver<NetworkError>),
}

impl OnDemand {
    /// Nothing is done before a call arrives.
    pub(crate) fn new(listener: OwnedFd, network: Arc<IsolatedNetwork>) -> OnDemand {
        OnDemand { network, listener: Some(listener), failures: channel() }
    }

    /// What to poll until the first call has come.
    pub(crate) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(|listener| listener.as_fd())
    }

    /// Takes up what poll(2) said of the listener.
    pub(crate) fn take_up(&mut self, flags: PollFlags) {
        if flags.is_empty() {
            return;
        }
        let Some(listener) = self.listener.take() else { return };
        // Else no process is left that could ask.
        if flags.contains(PollFlags::IN) {
            let (network, failures) = (Arc::clone(&self.network), self.failures.0.clone());
            // The listener is closed if there is no thread, and every call that it should answer fails.
            let _ = std::thread::Builder::new()
                .name("kiln-connect".into())
                .spawn(move || serve(&listener, &network, &failures));
        }
    }

    /// Why the network could not be connected, once that is known. The step waits meanwhile.
    pub(crate) fn failure(&self) -> Option<NetworkError> {
        self.failures.1.try_recv().ok()
    }
}

/// Answers until no process of the step is left.
fn serve(listener: &OwnedFd, network: &IsolatedNetwork, failures: &Sender<NetworkError>) {
    sys::wake_at_once(listener.as_fd());
    loop {
        let mut events = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut events, None) {
            Err(Errno::INTR) => continue,
            Ok(_) if events[0].revents().contains(PollFlags::IN) => {}
            _ => return,
        }
        // A thread that was killed meanwhile needs no answer.
        let Ok(call) = sys::receive(listener.as_fd()) else { continue };
        match network.wait() {
            Ok(()) => {
                let _ = sys::answer(listener.as_fd(), call.id, Answer::Continue);
            }
            // Unanswered: the step is killed where it stands.
            Err(error) => {
                let _ = failures.send(error);
            }
        }
    }
}

/// Whether calls of a step can be handed to this process: another filter above it may have a listener already, and there
/// can only be one.
pub(crate) fn is_possible() -> bool {
    static POSSIBLE: LazyLock<bool> = LazyLock::new(|| {
        std::fs::read_to_string("/proc/self/status")
            .is_ok_and(|status| status.lines().any(|line| line.trim_end() == "Seccomp:\t0"))
    });
    *POSSIBLE
}
