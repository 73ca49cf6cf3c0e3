//! A build's time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::{Error, ErrorKind};

/// Does `work`, and raises `cancel` after `limit`; what comes of that is told as what it is.
pub(crate) fn within<T>(
    limit: Duration,
    cancel: &AtomicBool,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let is_over = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        // Closed when the work is done, however it ends.
        let (done, until) = channel::<()>();
        let is_over = &is_over;
        scope.spawn(move || {
            if until.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                is_over.store(true, Ordering::Relaxed);
                cancel.store(true, Ordering::Relaxed);
            }
        });
        let result = work();
        drop(done);
        result
    });
    match result {
        Err(error) if error.kind == ErrorKind::Canceled && is_over.load(Ordering::Relaxed) => {
            Err(Error::new(ErrorKind::Step, format!("the build took longer than {limit:?}"))
                .hinted("raise --timeout; steps that were done are found again by the next build"))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_stopped_for_its_time_says_so() {
        let canceled = || Error::new(ErrorKind::Canceled, "canceled");
        let cancel = AtomicBool::new(false);
        let waits = || {
            while !cancel.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            Err::<(), _>(canceled())
        };
        let error = within(Duration::from_millis(1), &cancel, waits).unwrap_err();
        assert_eq!(error.message, "the build took longer than 1ms");
        let error = within(Duration::from_secs(60), &cancel, || Err::<(), _>(canceled())).unwrap_err();
        assert_eq!(error.message, "canceled");
        assert_eq!(within(Duration::from_secs(60), &cancel, || Ok(7)).unwrap(), 7);
    }
}
