//! Ctrl-C and its kin: the first asks the engine to stop, the second stops this program.

use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a shell sees of a program that SIGINT ended (128 + 2).
pub(crate) const INTERRUPTED: u8 = 130;

/// Calls `cancel` at the first signal; the second ends the program with status 130.
pub(crate) fn on_signal(cancel: impl Fn() + Send + 'static) {
    // Without handlers a signal ends the program at once, which is what the system does by itself.
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    std::thread::spawn(move || {
        let mut signals = signals.forever();
        if signals.next().is_none() {
            return;
        }
        cancel();
        let first = Instant::now();
        // timeout(1) and shells send one wish twice: to the program and to its group.
        if signals.any(|_| first.elapsed() >= SAME_WISH) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    });
}

const SAME_WISH: Duration = Duration::from_millis(200);
