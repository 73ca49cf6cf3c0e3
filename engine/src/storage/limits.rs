//! The limits of a store: from the configuration, the environment, or by the size of the disk.
//!
//! `$XDG_CONFIG_HOME/kiln/config.toml` (or `~/.config/…`), else `/etc/kiln/config.toml`:
//! ```toml
//! [gc]
//! enabled = true
//! reservedSpace = "10GB"   # of the cache never goes by itself (BuildKit's three knobs)
//! maxUsedSpace = "100GB"   # more than that of the cache goes
//! minFreeSpace = "20%"     # as long as the disk has less than that free
//! keepDuration = "1440h"   # unused for longer goes
//! maxSize = "200GB"        # the whole store, images and all: a hard limit
//! ```
//! Each has a variable of the environment, which wins: `KILN_GC_ENABLED`, `KILN_RESERVED_SPACE`, `KILN_MAX_USED_SPACE`,
//! `KILN_MIN_FREE_SPACE`, `KILN_KEEP_DURATION`, `KILN_MAX_SIZE`.

use std::path::PathBuf;
use std::time::Duration;

use kiln_cache::Disk;
use serde::Deserialize;

use crate::Error;

/// An amount of disk space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// In bytes.
    Bytes(u64),
    /// In percent of the disk.
    Percent(u8),
}

/// A text that is no size, duration or boolean.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is {1}")]
pub struct InvalidSize(pub String, pub &'static str);

/// How much a store may take. `None` is the default, by the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Whether builds remove anything by themselves; the hard limit holds all the same.
    pub enabled: bool,
    /// So much of the cache never goes by itself.
    pub reserved: Option<Size>,
    /// More than so much of the cache goes.
    pub max_used: Option<Size>,
    /// As long as the disk has less than so much free, cache goes.
    pub min_free: Option<Size>,
    /// What was unused for longer goes.
    pub keep_duration: Duration,
    /// What the whole store may take, images and all.
    pub max_size: Option<Size>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            enabled: true,
            reserved: None,
            max_used: None,
            min_free: None,
            keep_duration: DEFAULT_KEEP,
            max_size: None,
        }
    }
}

impl Limits {
    /// Those of the configuration file and the environment, of which `env` gives a variable's value.
    ///
    /// # Errors
    /// A file or variable that is there says what it cannot mean.
    pub fn load(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let mut limits = Self::default();
        for path in files(&env) {
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io(&path, error)),
            };
            let wrong = |message: String| Error::user(format!("{}: {message}", path.display()));
            let file: ConfigFile = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
            limits.take(&file.gc).map_err(|error| wrong(error.to_string()))?;
            break;
        }
        let variable = |name: &str| env(name).map(Scalar::Text);
        let of_env = GcTable {
            enabled: env("KILN_GC_ENABLED")
                .map(|text| !matches!(text.as_str(), "0" | "false" | "off" | "no")),
            reserved_space: variable("KILN_RESERVED_SPACE"),
            max_used_space: variable("KILN_MAX_USED_SPACE"),
            min_free_space: variable("KILN_MIN_FREE_SPACE"),
            keep_duration: variable("KILN_KEEP_DURATION"),
            max_size: variable("KILN_MAX_SIZE"),
        };
        limits.take(&of_env).map_err(|error| Error::user(format!("in the environment: {error}")))?;
        Ok(limits)
    }

    fn take(&mut self, table: &GcTable) -> Result<(), InvalidSize> {
        let size = |value: &Option<Scalar>, into: &mut Option<Size>| -> Result<(), InvalidSize> {
            if let Some(value) = value {
                *into = Some(value.text().parse()?);
            }
            Ok(())
        };
        self.enabled = table.enabled.unwrap_or(self.enabled);
        size(&table.reserved_space, &mut self.reserved)?;
        size(&table.max_used_space, &mut self.max_used)?;
        size(&table.min_free_space, &mut self.min_free)?;
        size(&table.max_size, &mut self.max_size)?;
        if let Some(value) = &table.keep_duration {
            self.keep_duration = parse_duration(&value.text())?;
        }
        Ok(())
    }

    /// Bytes of the cache that never go by themselves.
    pub fn reserved_bytes(&self, disk: &Disk) -> u64 {
        self.reserved.map_or_else(|| (disk.total_bytes / 10).min(DEFAULT_RESERVED), |size| size.of(disk))
    }

    /// Bytes that the cache may take.
    pub fn max_used_bytes(&self, disk: &Disk) -> u64 {
        self.max_used.map_or_else(|| (disk.total_bytes / 10 * 8).min(DEFAULT_MAX_USED), |size| size.of(disk))
    }

    /// Bytes of the disk that are to be free.
    pub fn min_free_bytes(&self, disk: &Disk) -> u64 {
        self.min_free.map_or_else(|| (disk.total_bytes / 5).min(DEFAULT_MIN_FREE), |size| size.of(disk))
    }

    /// Bytes that the whole store may take.
    pub fn max_bytes(&self, disk: &Disk) -> Option<u64> {
        self.max_size.map(|size| size.of(disk))
    }

    /// How much of a cache of `used_bytes` is to be left (BuildKit's rule): never less than what is reserved; `None`: all.
    pub fn keep_bytes(&self, used_bytes: u64, disk: &Disk) -> Option<u64> {
        let missing = self.min_free_bytes(disk).saturating_sub(disk.free_bytes);
        let max = self.max_used_bytes(disk);
        let mut keep = used_bytes.saturating_sub(missing);
        if keep > max {
            // Room for some builds, so that not each has to make its own.
            keep = max - max / 10;
        }
        let keep = keep.max(self.reserved_bytes(disk));
        (keep < used_bytes).then_some(keep)
    }
}

impl Size {
    /// In bytes on this disk.
    pub fn of(self, disk: &Disk) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => disk.total_bytes / 100 * u64::from(percent),
        }
    }
}

impl std::str::FromStr for Size {
    type Err = InvalidSize;

    /// `10GB`, `512MiB`, `20%`, or bytes.
    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let text = text.trim();
        match text.strip_suffix('%').map(|number| number.trim().parse::<u8>()) {
            Some(Ok(percent)) if percent <= 100 => Ok(Self::Percent(percent)),
            Some(_) => Err(InvalidSize(text.to_owned(), "no percentage")),
            None => parse_bytes(text).map(Self::Bytes),
        }
    }
}

/// Reads `10GB`, `1.5GB`, `512MiB`, `10g` (docker: powers of 1000 for `kB`, `MB`, `GB`; of 1024 for `KiB` and for single
/// letters) or bytes.
///
/// # Errors
/// The text is no size.
pub fn parse_bytes(text: &str) -> Result<u64, InvalidSize> {
    let invalid = || {
        InvalidSize(text.to_owned(), "no size: expected bytes, or a number with kB, MB, GB, KiB, MiB, GiB…")
    };
    let text_ = text.trim().to_ascii_lowercase();
    let unit_at = text_.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text_.len());
    let (number, unit) = text_.split_at(unit_at);
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let (base, letter): (f64, &str) = match unit.trim() {
        "" | "b" => (1.0, ""),
        unit if unit.ends_with("ib") => (1024.0, &unit[..unit.len() - 2]),
        unit if unit.ends_with('b') => (1000.0, &unit[..unit.len() - 1]),
        unit => (1024.0, unit),
    };
    let power = match letter {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    let bytes = number * base.powi(power);
    if bytes > MAX_BYTES { Err(invalid()) } else { Ok(bytes as u64) }
}

/// Reads a duration as Go writes it, `48h`, `1h30m`, and days, `7d`; a number alone is seconds.
///
/// # Errors
/// The text is no duration.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidSize> {
    let invalid = || InvalidSize(text.to_owned(), "no duration: expected `48h`, `1h30m`, `7d`");
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(at);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let at = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(at);
        seconds += number
            * match unit {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86400.0,
                "w" => 7.0 * 86400.0,
                _ => return Err(invalid()),
            };
        rest = tail;
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.trim().is_empty()).ok_or_else(invalid)
}

/// The first one that is there counts.
fn files(env: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let own = env("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| env("HOME").map(|home| PathBuf::from(home).join(".config")));
    let own = own.map(|folder| folder.join("kiln/config.toml"));
    own.into_iter().chain([PathBuf::from("/etc/kiln/config.toml")]).collect()
}

/// Other tables are others' business.
#[derive(Debug, Default, Deserialize)]
struct ConfigFile {
    #[serde(default)]
    gc: GcTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GcTable {
    enabled: Option<bool>,
    reserved_space: Option<Scalar>,
    max_used_space: Option<Scalar>,
    min_free_space: Option<Scalar>,
    keep_duration: Option<Scalar>,
    max_size: Option<Scalar>,
}

/// A number of bytes or seconds, or a text with a unit.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(u64),
    Text(String),
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// BuildKit's: a tenth of the disk, at most this.
const DEFAULT_RESERVED: u64 = 10_000_000_000;
/// BuildKit's: four fifths of the disk, at most this.
const DEFAULT_MAX_USED: u64 = 100_000_000_000;
/// A fifth of the disk, at most this: BuildKit has no bound here, and empties its cache on a large disk that is four
/// fifths full.
const DEFAULT_MIN_FREE: u64 = 20_000_000_000;
/// BuildKit's: 60 days.
const DEFAULT_KEEP: Duration = Duration::from_secs(60 * 24 * 3600);
/// Beyond any disk; keeps sums of sizes from overflowing.
const MAX_BYTES: f64 = (1_u64 << 60) as f64;

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn sizes_and_durations_are_read_as_docker_reads_them() {
        let bytes = |text: &str| parse_bytes(text).ok();
        assert_eq!(bytes("1024"), Some(1024));
        assert_eq!(bytes("10GB"), Some(10 * GB));
        assert_eq!(bytes("1.5 kB"), Some(1500));
        assert_eq!(bytes("2MiB"), Some(2 << 20));
        assert_eq!(bytes("3g"), Some(3 << 30));
        for text in ["", "GB", "10 apples", "-1", "1e9", "99999999999TB"] {
            assert_eq!(bytes(text), None, "{text}");
        }
        assert_eq!("20%".parse(), Ok(Size::Percent(20)));
        assert!("120%".parse::<Size>().is_err());
        let seconds = |text: &str| parse_duration(text).ok().map(|duration| duration.as_secs());
        assert_eq!(seconds("48h"), Some(172_800));
        assert_eq!(seconds("1h30m"), Some(5400));
        assert_eq!(seconds("7d"), Some(604_800));
        assert_eq!(seconds("90"), Some(90));
        for text in ["", "h", "1x", "1h2"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn the_defaults_go_by_the_disk() {
        let limits = Limits::default();
        let small = Disk { total_bytes: 50 * GB, free_bytes: 25 * GB };
        assert_eq!(limits.reserved_bytes(&small), 5 * GB);
        assert_eq!(limits.max_used_bytes(&small), 40 * GB);
        assert_eq!(limits.min_free_bytes(&small), 10 * GB);
        let large = Disk { total_bytes: 2000 * GB, free_bytes: 1000 * GB };
        assert_eq!(limits.reserved_bytes(&large), 10 * GB);
        assert_eq!(limits.max_used_bytes(&large), 100 * GB);
        assert_eq!(limits.min_free_bytes(&large), 20 * GB);
        assert_eq!(limits.max_bytes(&large), None);
    }

    #[test]
    fn what_is_kept_follows_the_three_knobs() {
        let limits = Limits {
            reserved: Some(Size::Bytes(10)),
            max_used: Some(Size::Bytes(100)),
            min_free: Some(Size::Bytes(50)),
            ..Limits::default()
        };
        let keep = |used, free_bytes| limits.keep_bytes(used, &Disk { total_bytes: 1000, free_bytes });
        assert_eq!(keep(100, 50), None);
        assert_eq!(keep(101, 50), Some(90), "too much is used");
        assert_eq!(keep(60, 30), Some(40), "too little is free");
        assert_eq!(keep(60, 0), Some(10), "what is reserved stays");
        assert_eq!(keep(9, 0), None);
    }

    #[test]
    fn a_variable_wins_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("kiln")).unwrap();
        let file = dir.path().join("kiln/config.toml");
        let load = |max_size: Option<&str>| {
            let config = dir.path().to_str().unwrap().to_owned();
            Limits::load(&|name| match name {
                "XDG_CONFIG_HOME" => Some(config.clone()),
                "KILN_MAX_SIZE" => max_size.map(str::to_owned),
                _ => None,
            })
        };
        std::fs::write(
            &file,
            "[gc]\nmaxSize = \"2GB\"\nminFreeSpace = 5\nkeepDuration = \"7d\"\n[other]\na = 1\n",
        )
        .unwrap();
        let limits = load(None).unwrap();
        assert_eq!(limits.max_size, Some(Size::Bytes(2 * GB)));
        assert_eq!(limits.min_free, Some(Size::Bytes(5)));
        assert_eq!(limits.keep_duration, Duration::from_secs(7 * 24 * 3600));
        assert_eq!(load(Some("3GB")).unwrap().max_size, Some(Size::Bytes(3 * GB)));
        assert!(load(Some("much")).unwrap_err().message.contains("`much` is no size"));
        std::fs::write(&file, "[gc]\nmaxsize = 1\n").unwrap();
        assert!(load(None).unwrap_err().message.contains("config.toml"));
    }
}
