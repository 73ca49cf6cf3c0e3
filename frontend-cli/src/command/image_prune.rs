//! `kiln image prune` (FEATURES IM14): images without a name, or with `-a` all.

use kiln::ImageRecord;
use kiln::images::Images;
use kiln::storage::parse_duration;

use crate::args::ImagePruneArgs;
use crate::report::Failure;

pub(super) fn run(args: &ImagePruneArgs, images: &Images) -> Result<u8, Failure> {
    let question = match args.all {
        true => "WARNING! This will remove all images.",
        false => "WARNING! This will remove all images without a name.",
    };
    if !args.force && !super::confirm(question)? {
        return Ok(0);
    }
    let removed = remove(images, args.all, &args.filters)?;
    if !removed.is_empty() {
        super::print(&format!("Deleted Images:\n{}\n\n", removed.join("\n")))?;
    }
    let freed = images.prune_unreferenced()?;
    super::print(&format!("Total reclaimed space: {}\n", crate::human::size(freed)))?;
    Ok(0)
}

/// Removes images; the layers that only they held are left to whoever prunes next. Returns what docker prints.
pub(super) fn remove(images: &Images, all: bool, filters: &[String]) -> Result<Vec<String>, Failure> {
    let filters = filters.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let now = jiff::Timestamp::now().as_second();
    let mut removed = Vec::new();
    for image in images.list()? {
        if image.name.is_some() && !all {
            continue;
        }
        let mut is_wanted = true;
        for filter in &filters {
            is_wanted &= filter.holds(images, &image, now)?;
        }
        if is_wanted {
            match &image.name {
                Some(name) => removed.extend(images.remove(&name.to_string(), true)?),
                None => removed.extend(images.remove(&image.config.to_string(), true)?),
            }
        }
    }
    Ok(removed)
}

/// Docker's: `until`, `label`, `label!`.
enum Filter {
    Until(i64),
    Label { key: String, value: Option<String>, is_wanted: bool },
}

impl Filter {
    fn parse(text: &str) -> Result<Self, Failure> {
        let label = |text: &str, is_wanted| {
            let (key, value) = match text.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (text, None),
            };
            Self::Label { key: key.to_owned(), value, is_wanted }
        };
        if let Some(age) = text.strip_prefix("until=") {
            let age = parse_duration(age).map_err(|error| error.to_string())?;
            return Ok(Self::Until(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)));
        }
        if let Some(text) = text.strip_prefix("label=") {
            return Ok(label(text, true));
        }
        if let Some(text) = text.strip_prefix("label!=") {
            return Ok(label(text, false));
        }
        match text {
            "dangling=true" | "dangling=1" | "dangling=false" | "dangling=0" => Ok(Self::Until(0)),
            _ => Err(Failure::usage(format!("invalid filter `{text}`"))
                .with_hint("the filters are `until=24h`, `label=key[=value]` and `label!=key[=value]`")),
        }
    }

    fn holds(&self, images: &Images, image: &ImageRecord, now: i64) -> Result<bool, Failure> {
        Ok(match self {
            Self::Until(age) => now - image.tagged_at.cast_signed() >= *age,
            Self::Label { key, value, is_wanted } => {
                let config = images.config(image)?;
                let found = config.config.labels.as_ref().and_then(|labels| labels.get(key));
                let has = found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found));
                has == *is_wanted
            }
        })
    }
}
