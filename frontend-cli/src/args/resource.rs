//! `--shm-size` and `--ulimit`.

/// Bytes as docker counts them: `64m`, `1.5GiB`, `1024`; the units are powers of 1024.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let invalid = || format!("invalid size: `{text}`");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let exponent = match unit.trim_start().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let bytes = number * 1024f64.powi(exponent);
    // Beyond 2^63 neither the kernel nor docker counts.
    if !(0.0..9.2e18).contains(&bytes) {
        return Err(invalid());
    }
    Ok(bytes as u64)
}

/// `nofile=soft[:hard]`; `-1` is no limit.
pub(crate) fn ulimit(text: &str) -> Result<(String, u64, u64), String> {
    let invalid = |why: &str| format!("invalid ulimit argument: `{text}`: {why}");
    let (name, values) = text.split_once('=').ok_or_else(|| invalid("expected type=soft[:hard]"))?;
    if !ULIMITS.contains(&name) {
        return Err(invalid(&format!("there is no type `{name}`, only {}", ULIMITS.join(", "))));
    }
    let number = |text: &str| match text {
        "-1" => Ok(u64::MAX),
        text => text.parse::<u64>().map_err(|_| invalid("a limit is a number or -1")),
    };
    let (soft, hard) = match values.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(values)?, number(values)?),
    };
    if soft > hard {
        return Err(invalid("the soft limit is above the hard one"));
    }
    Ok((name.to_owned(), soft, hard))
}

/// getrlimit(2), as docker spells them.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_dockers_units() {
        let cases = [
            ("1024", 1024),
            ("64m", 64 << 20),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("2 kb", 2048),
            ("1B", 1),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "m", "1x", "-1", "1e999p"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn one_limit_is_both() {
        assert_eq!(ulimit("nofile=1024").unwrap(), ("nofile".into(), 1024, 1024));
        assert_eq!(ulimit("nproc=1:-1").unwrap(), ("nproc".into(), 1, u64::MAX));
        for text in ["nofile", "nofile=2:1", "files=1", "nofile=a"] {
            assert!(ulimit(text).is_err(), "{text}");
        }
    }
}
