//! Sizes and ages in docker's words.

/// `4.04MB`: three digits, powers of 1000.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    let number = format!("{value:.decimals$}");
    let number =
        if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    format!("{number}{}", UNITS[unit])
}

/// `0.2s`, `1m 5s`, `2h 3m` of milliseconds.
pub(crate) fn seconds(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..60 => format!("{seconds}.{}s", millis % 1000 / 100),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `3 weeks`; of a date in the future, `Less than a second`.
pub(crate) fn duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds as f64 / 3600.0).round() as i64;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 14 => format!("{} days", hours / 24),
        () if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// `3 weeks ago` of an RFC 3339 date; `N/A` of anything else.
pub(crate) fn ago(date: Option<&str>, now: jiff::Timestamp) -> String {
    match date.and_then(|date| date.parse::<jiff::Timestamp>().ok()) {
        Some(then) => format!("{} ago", duration(now.as_second() - then.as_second())),
        None => "N/A".to_owned(),
    }
}

/// At most `longest` characters; the last one says that there were more.
pub(crate) fn ellipsis(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    text.chars().take(longest - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let cases = [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_042_190, "4.04MB"),
            (77_800_000, "77.8MB"),
            (119_400_000, "119MB"),
            (1_240_000_000, "1.24GB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn times_have_two_units_at_most() {
        for (millis, expected) in [(0, "0.0s"), (1250, "1.2s"), (65_000, "1m 5s"), (7_380_000, "2h 3m")] {
            assert_eq!(seconds(millis), expected);
        }
    }

    #[test]
    fn ages_are_rounded_as_docker_rounds_them() {
        let cases = [
            (0, "Less than a second"),
            (59, "59 seconds"),
            (90, "About a minute"),
            (3600, "About an hour"),
            (47 * 3600, "47 hours"),
            (3 * 86400, "3 days"),
            (21 * 86400, "3 weeks"),
            (100 * 86400, "3 months"),
            (800 * 86400, "2 years"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(duration(seconds), expected);
        }
    }
}
