//! `--filter` of `kiln images` (FEATURES IM2): filters of one key are alternatives, those of several must all hold.

use std::collections::BTreeMap;

use kiln::ImageRecord;
use kiln::images::Images;
use kiln::oci::ImageConfig;
use kiln::storage::parse_duration;

use crate::report::Failure;

/// What an image must be like.
pub(super) struct ImageFilters(BTreeMap<&'static str, Vec<Filter>>);

enum Filter {
    Dangling(bool),
    Label(String, Option<String>),
    /// Made before or after the image that was made at this time.
    Before(String),
    Since(String),
    /// A name with `*` and `?`.
    Reference(String),
    /// Made before this time, in seconds.
    Until(i64),
}

impl ImageFilters {
    /// `now` in seconds since the epoch.
    pub(super) fn parse(texts: &[String], images: &Images, now: i64) -> Result<Self, Failure> {
        let mut filters: BTreeMap<&'static str, Vec<Filter>> = BTreeMap::new();
        for text in texts {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            let created = || {
                let image = images.find(value)?;
                Ok::<_, Failure>(images.config(&image)?.created.unwrap_or_default())
            };
            let (key, filter) = match key {
                "dangling" => match value {
                    "true" | "1" => ("dangling", Filter::Dangling(true)),
                    "false" | "0" => ("dangling", Filter::Dangling(false)),
                    _ => {
                        return Err(Failure::usage(format!(
                            "invalid filter `{text}`: expected true or false"
                        )));
                    }
                },
                "label" => match value.split_once('=') {
                    Some((key, value)) => ("label", Filter::Label(key.to_owned(), Some(value.to_owned()))),
                    None => ("label", Filter::Label(value.to_owned(), None)),
                },
                "before" => ("before", Filter::Before(created()?)),
                "since" => ("since", Filter::Since(created()?)),
                "reference" => ("reference", Filter::Reference(value.to_owned())),
                "until" => {
                    let time = match parse_duration(value) {
                        Ok(age) => now - i64::try_from(age.as_secs()).unwrap_or(i64::MAX),
                        Err(error) => match value.parse::<jiff::Timestamp>() {
                            Ok(time) => time.as_second(),
                            Err(_) => return Err(error.to_string().into()),
                        },
                    };
                    ("until", Filter::Until(time))
                }
                _ => {
                    return Err(Failure::usage(format!("invalid filter `{text}`"))
                        .with_hint("the filters are dangling, label, before, since, reference and until"));
                }
            };
            filters.entry(key).or_default().push(filter);
        }
        Ok(Self(filters))
    }

    pub(super) fn keep(&self, image: &ImageRecord, config: &ImageConfig) -> bool {
        self.0.values().all(|alternatives| alternatives.iter().any(|filter| filter.holds(image, config)))
    }
}

impl Filter {
    fn holds(&self, image: &ImageRecord, config: &ImageConfig) -> bool {
        let seconds = |time: &str| time.parse::<jiff::Timestamp>().ok();
        let created = config.created.as_deref().and_then(seconds);
        match self {
            Self::Dangling(wanted) => image.name.is_none() == *wanted,
            Self::Label(key, value) => {
                let found = config.config.labels.as_ref().and_then(|labels| labels.get(key));
                found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
            }
            Self::Before(time) => created.zip(seconds(time)).is_some_and(|(created, time)| created < time),
            Self::Since(time) => created.zip(seconds(time)).is_some_and(|(created, time)| created > time),
            Self::Until(time) => created.is_some_and(|created| created.as_second() < *time),
            Self::Reference(pattern) => image.name.as_ref().is_some_and(|name| {
                let (familiar, repository) = (name.familiar(), name.familiar_name());
                [familiar.as_str(), &repository].iter().any(|name| matches_glob(pattern, name))
            }),
        }
    }
}

/// Go's `path.Match` without character classes: `*` and `?` stand for anything but a slash.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let mut rest = text;
    for (at, char) in pattern.char_indices() {
        match char {
            '*' => {
                let after = &pattern[at + 1..];
                let end = rest.find('/').unwrap_or(rest.len());
                return (0..=end)
                    .filter(|skip| rest.is_char_boundary(*skip))
                    .any(|skip| matches_glob(after, &rest[skip..]));
            }
            '?' => match rest.chars().next() {
                Some(any) if any != '/' => rest = &rest[any.len_utf8()..],
                _ => return false,
            },
            char => match rest.strip_prefix(char) {
                Some(after) => rest = after,
                None => return false,
            },
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_all_but_a_slash() {
        for (pattern, text, expected) in [
            ("busy*", "busybox", true),
            ("busy*", "busybox:1", true),
            ("*:1", "busybox:1", true),
            ("b?sybox", "busybox", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("busy", "busybox", false),
        ] {
            assert_eq!(matches_glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
