//! HEALTHCHECK (FEATURES MI13–MI15).

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while1};
use nom::character::complete::{char, digit0};
use nom::combinator::{opt, recognize, value};
use nom::sequence::preceded;
use nom::{IResult, Parser};

use super::{Request, exec};
use crate::flags::{Flags, Known, Takes};
use crate::{Command, Healthcheck, InstructionKind, ParseError, Spanned};

const FLAGS: Known = &[
    ("interval", Takes::One),
    ("retries", Takes::One),
    ("start-interval", Takes::One),
    ("start-period", Takes::One),
    ("timeout", Takes::One),
];

const MILLISECOND: u64 = 1_000_000;

pub(super) fn parse(mut request: Request<'_>) -> Result<InstructionKind, ParseError> {
    if request.args.is_empty() {
        return Err(request.no_arguments());
    }
    let (kind, rest) = request.args.split_word();
    let word = kind.as_str().to_uppercase();
    if word == "NONE" {
        // Options beside NONE mean nothing, and BuildKit does not look at them.
        if !rest.is_empty() {
            return Err(ParseError::HealthcheckNoneArguments { span: rest.span() });
        }
        return Ok(InstructionKind::Healthcheck(Healthcheck::None));
    }
    let flags = request.checked_flags(FLAGS)?;
    if word != "CMD" {
        return Err(ParseError::UnknownHealthcheck { word, span: kind.span() });
    }
    let command = exec::command(&rest)?;
    if rest.is_empty() || command == Command::Exec(Vec::new()) {
        return Err(ParseError::HealthcheckWithoutCommand { span: request.whole.span() });
    }
    Ok(InstructionKind::Healthcheck(Healthcheck::Check {
        command,
        interval: duration(&flags, "interval")?,
        timeout: duration(&flags, "timeout")?,
        start_period: duration(&flags, "start-period")?,
        start_interval: duration(&flags, "start-interval")?,
        retries: retries(&flags)?,
    }))
}

fn retries(flags: &Flags) -> Result<u32, ParseError> {
    let Some(flag) = flags.one("retries") else { return Ok(0) };
    match flag.value.parse::<i32>().ok().and_then(|count| u32::try_from(count).ok()) {
        Some(count) => Ok(count),
        None => Err(ParseError::InvalidRetries { value: flag.value, span: flag.span }),
    }
}

fn duration(flags: &Flags, name: &'static str) -> Result<u64, ParseError> {
    let Some(Spanned { value, span }) = flags.one(name) else { return Ok(0) };
    match nanoseconds(&value) {
        Ok(0) => Ok(0),
        // What is negative is too short as well.
        Ok(length) => match u64::try_from(length) {
            Ok(length) if length >= MILLISECOND => Ok(length),
            _ => Err(ParseError::DurationTooShort { flag: name, span }),
        },
        Err(problem) => Err(ParseError::InvalidDuration { flag: name, value, problem, span }),
    }
}

/// Of a number that cannot be read or is too large.
const INVALID: &str = "invalid duration";

/// Reads a duration as Go writes it: `1h2m3.5s`, with an optional sign; `0` needs no unit.
fn nanoseconds(text: &str) -> Result<i128, String> {
    let (mut rest, sign) = sign(text).map_err(|_| INVALID.to_owned())?;
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(INVALID.to_owned());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (after, (whole, fraction)) = number(rest).map_err(|_| INVALID.to_owned())?;
        let (after, name) = name(after).map_err(|_| "missing unit in duration".to_owned())?;
        let unit = match unit(name) {
            Ok(("", unit)) => unit,
            _ => return Err(format!("unknown unit \"{name}\" in duration")),
        };
        total += scaled(whole, fraction, unit).ok_or(INVALID)?;
        if total > i128::from(i64::MAX) {
            return Err(INVALID.to_owned());
        }
        rest = after;
    }
    Ok(if sign == Some('-') { -total } else { total })
}

fn scaled(whole: &str, fraction: &str, unit: u64) -> Option<i128> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut part: i128 = 0;
    let mut scale = i128::from(unit);
    for digit in fraction.chars().filter_map(|digit| digit.to_digit(10)) {
        // Digits below a nanosecond count for nothing.
        part += i128::from(digit) * scale / 10;
        scale /= 10;
    }
    Some(i128::from(whole) * i128::from(unit) + part)
}

fn sign(text: &str) -> IResult<&str, Option<char>> {
    opt(alt((char('-'), char('+')))).parse(text)
}

fn number(text: &str) -> IResult<&str, (&str, &str)> {
    let (left, (whole, fraction)) = (digit0, opt(preceded(char('.'), digit0))).parse(text)?;
    let fraction = fraction.unwrap_or("");
    if whole.is_empty() && fraction.is_empty() {
        return Err(nom::Err::Error(nom::error::Error::new(text, nom::error::ErrorKind::Digit)));
    }
    Ok((left, (whole, fraction)))
}

fn name(text: &str) -> IResult<&str, &str> {
    recognize(take_while1(|ch: char| ch != '.' && !ch.is_ascii_digit())).parse(text)
}

fn unit(name: &str) -> IResult<&str, u64> {
    alt((
        value(1, tag("ns")),
        value(1_000, alt((tag("us"), tag("µs"), tag("μs")))),
        value(MILLISECOND, tag("ms")),
        value(1_000 * MILLISECOND, tag("s")),
        value(60_000 * MILLISECOND, tag("m")),
        value(3_600_000 * MILLISECOND, tag("h")),
    ))
    .parse(name)
}

#[cfg(test)]
mod tests {
    use super::{INVALID, nanoseconds};

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(nanoseconds("1h2m3.5s"), Ok(3_723_500_000_000));
        assert_eq!(nanoseconds("500ms"), Ok(500_000_000));
        assert_eq!(nanoseconds(".5s"), Ok(500_000_000));
        assert_eq!(nanoseconds("+1µs"), Ok(1_000));
        assert_eq!(nanoseconds("-1s"), Ok(-1_000_000_000));
        assert_eq!(nanoseconds("0"), Ok(0));
    }

    #[test]
    fn a_wrong_duration_says_what_is_wrong() {
        assert_eq!(nanoseconds("5parsecs"), Err("unknown unit \"parsecs\" in duration".into()));
        assert_eq!(nanoseconds("5"), Err("missing unit in duration".into()));
        assert_eq!(nanoseconds("s"), Err(INVALID.into()));
        assert_eq!(nanoseconds("99999999999999999999h"), Err(INVALID.into()));
    }
}
