//! `--filter` of `du` and `prune` (FEATURES GC3): all that are given must hold.

use std::time::Duration;

use kiln::storage::{Usage, parse_duration};

/// What a record must be like.
#[derive(Debug)]
pub(super) struct Filters(Vec<Filter>);

#[derive(Debug, PartialEq)]
struct Filter {
    field: Field,
    is_negated: bool,
}

#[derive(Debug, PartialEq)]
enum Field {
    /// Unused for longer.
    Until(Duration),
    Id(String),
    Type(String),
    Description {
        text: String,
        is_part: bool,
    },
    InUse,
    Mutable,
    Shared,
}

impl Filters {
    /// Understands `key=value`, `key!=value`, `key~=part` and `key`.
    pub(super) fn parse(texts: &[String]) -> Result<Self, String> {
        texts.iter().map(|text| Filter::parse(text)).collect::<Result<_, _>>().map(Self)
    }

    /// Adds "unused for longer than".
    pub(super) fn add_age(&mut self, text: &str) -> Result<(), String> {
        let age = parse_duration(text).map_err(|error| error.to_string())?;
        self.0.push(Filter { field: Field::Until(age), is_negated: false });
        Ok(())
    }

    /// Whether all hold; `now` in seconds since the epoch.
    pub(super) fn keep(&self, usage: &Usage, now: i64) -> bool {
        self.0.iter().all(|filter| filter.field.holds(usage, now) != filter.is_negated)
    }
}

impl Filter {
    fn parse(text: &str) -> Result<Self, String> {
        let (key, operator, value) = match text.find('=') {
            None => (text, "", ""),
            Some(at) => match text.as_bytes().get(at.wrapping_sub(1)) {
                Some(b'!') => (&text[..at - 1], "!=", &text[at + 1..]),
                Some(b'~') => (&text[..at - 1], "~=", &text[at + 1..]),
                _ => (&text[..at], "=", &text[at + 1..]),
            },
        };
        if operator == "~=" && key != "description" && key != "id" {
            return Err(format!("invalid filter `{text}`: `~=` is for description and id"));
        }
        let mut is_negated = operator == "!=";
        let mut flag = |field: Field| match value {
            "" | "1" | "true" => Ok(field),
            "0" | "false" => {
                is_negated = !is_negated;
                Ok(field)
            }
            _ => Err(format!("invalid filter `{text}`: expected true or false")),
        };
        let field = match key {
            "until" | "unused-for" => Field::Until(parse_duration(value).map_err(|error| error.to_string())?),
            "id" => Field::Id(value.to_owned()),
            "type" => Field::Type(value.to_owned()),
            "description" => Field::Description { text: value.to_owned(), is_part: operator == "~=" },
            "inuse" => flag(Field::InUse)?,
            "mutable" => flag(Field::Mutable)?,
            "shared" => flag(Field::Shared)?,
            "immutable" => {
                let field = flag(Field::Mutable)?;
                is_negated = !is_negated;
                field
            }
            "private" => {
                let field = flag(Field::Shared)?;
                is_negated = !is_negated;
                field
            }
            _ => {
                return Err(format!(
                    "invalid filter `{text}`: the keys are until, id, type, description, inuse, mutable, immutable, shared and private"
                ));
            }
        };
        Ok(Self { field, is_negated })
    }
}

impl Field {
    fn holds(&self, usage: &Usage, now: i64) -> bool {
        match self {
            Self::Until(age) => now - usage.used_at >= i64::try_from(age.as_secs()).unwrap_or(i64::MAX),
            Self::Id(prefix) => usage.id.starts_with(prefix.trim_end_matches('*')),
            Self::Type(name) => usage.kind.name() == name,
            Self::Description { text, is_part: true } => usage.description.contains(text),
            Self::Description { text, is_part: false } => usage.description == *text,
            Self::InUse => usage.in_use,
            Self::Mutable => usage.is_mutable(),
            Self::Shared => usage.is_shared(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Field, bool) {
        let mut filters = Filters::parse(&[text.to_owned()]).unwrap().0;
        let Filter { field, is_negated } = filters.remove(0);
        (field, is_negated)
    }

    #[test]
    fn filters_are_read_as_buildkit_reads_them() {
        assert_eq!(parsed("until=24h"), (Field::Until(Duration::from_secs(86400)), false));
        assert_eq!(parsed("type!=regular"), (Field::Type("regular".into()), true));
        assert_eq!(parsed("private"), (Field::Shared, true));
        assert_eq!(parsed("shared=false"), (Field::Shared, true));
        assert_eq!(parsed("immutable=true"), (Field::Mutable, true));
        assert_eq!(
            parsed("description~=apt=1"),
            (Field::Description { text: "apt=1".into(), is_part: true }, false)
        );
        for text in ["", "nope=1", "until=soon", "inuse=maybe", "type~=reg"] {
            assert!(Filters::parse(&[text.to_owned()]).is_err(), "{text}");
        }
    }
}
