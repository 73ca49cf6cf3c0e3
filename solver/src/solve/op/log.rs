//! What becomes of a step's output: shown up to a limit, kept for the record and for an error.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What a record keeps of a step's output (FEATURES RN14; BuildKit's own limit).
const LOG_LIMIT: usize = 2 << 20;

/// What an error carries of it.
const LOG_TAIL_LIMIT: usize = 64 << 10;

/// How much of each stream of a step is shown (FEATURES RN14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes in all; `None` is no limit.
    pub bytes: Option<u64>,
    /// Bytes for each second that the step has run, begun seconds included; `None` is no limit.
    pub bytes_per_second: Option<u64>,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { bytes: Some(2 << 20), bytes_per_second: Some(200 << 10) }
    }
}

/// One stream of a step, as it is shown.
#[derive(Debug)]
pub(super) struct Clip {
    limits: LogLimits,
    started: Instant,
    written_bytes: u64,
    is_clipping: bool,
}

impl Clip {
    pub(super) fn new(limits: LogLimits) -> Self {
        Self { limits, started: Instant::now(), written_bytes: 0, is_clipping: false }
    }

    /// Returns what of `bytes` is shown, with a notice where something begins to be left out.
    pub(super) fn shown(&mut self, bytes: &[u8], now: Instant) -> Vec<u8> {
        let before = self.written_bytes;
        self.written_bytes += bytes.len() as u64;
        let (limit, per_second) = self.limit(now.saturating_duration_since(self.started));
        let room = limit.saturating_sub(before).min(bytes.len() as u64);
        let mut shown = bytes.get(..room as usize).unwrap_or_default().to_vec();
        let is_clipped = shown.len() < bytes.len();
        if is_clipped && !self.is_clipping {
            let unit = if per_second { "/s" } else { "" };
            let limit = per_second.then_some(self.limits.bytes_per_second).flatten().unwrap_or(limit);
            shown.extend_from_slice(
                format!("\n[output clipped, log limit {}{unit} reached]\n", binary(limit)).as_bytes(),
            );
        }
        self.is_clipping = is_clipped;
        shown
    }

    /// What may have been written by now, and whether the speed decides.
    fn limit(&self, elapsed: Duration) -> (u64, bool) {
        let seconds = elapsed.as_secs() + u64::from(elapsed.subsec_nanos() > 0);
        let by_speed = self.limits.bytes_per_second.map(|speed| speed.saturating_mul(seconds.max(1)));
        match (by_speed, self.limits.bytes) {
            (Some(speed), Some(bytes)) if speed <= bytes => (speed, true),
            (Some(speed), None) => (speed, true),
            (_, Some(bytes)) => (bytes, false),
            (None, None) => (u64::MAX, false),
        }
    }
}

/// A whole number of the largest binary unit, as BuildKit writes it.
fn binary(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}

/// What a step prints: the beginning for the record, the end for an error.
#[derive(Default)]
pub(super) struct Log {
    pub(super) head: Vec<u8>,
    pub(super) tail: VecDeque<u8>,
}

impl Log {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let room = LOG_LIMIT.saturating_sub(self.head.len());
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.tail.extend(&bytes[bytes.len().saturating_sub(LOG_TAIL_LIMIT)..]);
        let surplus = self.tail.len().saturating_sub(LOG_TAIL_LIMIT);
        self.tail.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_its_beginning_for_the_record_and_its_end_for_the_error() {
        let mut log = Log::default();
        log.push(b"first");
        for _ in 0..5 {
            log.push(&vec![b'.'; 1 << 20]);
        }
        log.push(b"last");
        assert_eq!(log.head.len(), LOG_LIMIT);
        assert!(log.head.starts_with(b"first"));
        let tail: Vec<u8> = log.tail.into();
        assert_eq!(tail.len(), LOG_TAIL_LIMIT);
        assert!(tail.ends_with(b"last"));
    }

    #[test]
    fn output_is_clipped_by_speed_and_by_size_with_one_notice_each() {
        let mut clip = Clip::new(LogLimits { bytes: Some(100), bytes_per_second: Some(10) });
        let at = |seconds: u64| clip.started + Duration::from_millis(seconds * 1000 - 1);
        let (first, second, later) = (at(1), at(2), at(60));
        let shown = |clip: &mut Clip, bytes: &[u8], now| String::from_utf8(clip.shown(bytes, now)).unwrap();
        assert_eq!(shown(&mut clip, b"12345678", first), "12345678");
        let notice = "90\n[output clipped, log limit 10B/s reached]\n";
        assert_eq!(shown(&mut clip, b"90xx", first), notice);
        assert_eq!(shown(&mut clip, b"xx", first), "");
        assert_eq!(shown(&mut clip, b"abc", second), "abc");
        let rest = shown(&mut clip, &[b'.'; 100], later);
        assert!(rest.ends_with(".\n[output clipped, log limit 100B reached]\n"), "{rest}");
        let mut free = Clip::new(LogLimits { bytes: None, bytes_per_second: None });
        assert_eq!(free.shown(&[b'.'; 5000], first).len(), 5000);
        assert_eq!([binary(2 << 20), binary(200 << 10)], ["2MiB", "200KiB"]);
    }
}
