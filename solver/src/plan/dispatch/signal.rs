//! STOPSIGNAL (FEATURES MI12).

use kiln_parser::Spanned;

use super::Step;
use crate::plan::PlanError;
use crate::plan::history::Made;

/// Linux' names, without `SIG`; real-time signals are counted from either end.
const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Takes STOPSIGNAL; the text is kept as given.
pub(super) fn stopsignal(step: &mut Step<'_, '_>, signal: &Spanned<String>) -> Result<(), PlanError> {
    let place = step.place(signal.span);
    let signal = step.expand(signal)?;
    if !is_signal(&signal) {
        return Err(PlanError::InvalidSignal { signal, span: place });
    }
    let text = format!("STOPSIGNAL {signal}");
    step.state.image.config.stop_signal = signal;
    let span = step.span();
    step.planner.record(step.state, text, Made::Nothing, span)
}

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |rest: &str, most: u8| {
        let plain = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()) && !rest.starts_with('0');
        plain && rest.parse::<u8>().is_ok_and(|number| number <= most)
    };
    if let Some(rest) = name.strip_prefix("RTMIN+") {
        return offset(rest, 15);
    }
    if let Some(rest) = name.strip_prefix("RTMAX-") {
        return offset(rest, 14);
    }
    NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_names_with_or_without_sig_and_numbers() {
        for signal in ["SIGTERM", "term", "9", "SIGRTMIN+3", "rtmax-14"] {
            assert!(is_signal(signal), "{signal}");
        }
        for signal in ["SIGNOPE", "0", "", "SIGTERM SIGINT", "RTMIN+16", "RTMIN+"] {
            assert!(!is_signal(signal), "{signal}");
        }
    }
}
