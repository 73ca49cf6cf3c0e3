//! Ctrl-C and its kin: the first asks the engine to stop, the second stops this program.

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
        if signals.next().is_some() {
            cancel();
        }
        if signals.next().is_some() {
            std::process::exit(i32::from(INTERRUPTED));
        }
    });
}
