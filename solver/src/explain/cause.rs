//! Why a step ran.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Difference;

/// Why a step ran and was not found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// No earlier build is known that had it.
    First,
    /// The cache was not to be used.
    NoCache {
        /// Who said so.
        by: NoCacheBy,
    },
    /// The earlier result was older than it may be.
    Expired {
        /// How old it may be, in words.
        lifetime: String,
    },
    /// The earlier result was removed.
    Removed {
        /// By what, in words.
        by: String,
        /// When, as a date.
        at: String,
    },
    /// The earlier result is not there, and nothing is known of why.
    Lost,
    /// It failed before, which is never remembered as a result.
    FailedBefore,
    /// An earlier result is known, but no more what it was made of.
    Unknown,
    /// The same name is another image now.
    BaseMoved {
        /// The image's name.
        name: String,
        /// Digest before.
        old: String,
        /// Digest now.
        new: String,
    },
    /// Another base.
    BaseReplaced {
        /// Name before.
        old: String,
        /// Name now.
        new: String,
    },
    /// A step above gave something else.
    StepAbove {
        /// Its name.
        name: String,
    },
    /// A step above is new.
    StepAboveAdded {
        /// Its name.
        name: String,
    },
    /// A step above is gone.
    StepAboveRemoved {
        /// Its name.
        name: String,
    },
    /// A step above runs, so that it cannot be said what this one starts from.
    StepAboveRuns {
        /// Its name.
        name: String,
    },
    /// Something of its own changed.
    Changed(Difference),
}

/// Who said that the cache is not to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NoCacheBy {
    /// `--no-cache`.
    Flag,
    /// `--no-cache-filter`.
    Filter,
    /// `# kiln: no-cache`.
    Comment,
}

impl fmt::Display for NoCacheBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "--no-cache",
            Self::Filter => "--no-cache-filter",
            Self::Comment => "# kiln: no-cache",
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => write!(f, "first build of this instruction"),
            Self::NoCache { by } => write!(f, "{by}"),
            Self::Expired { lifetime } if lifetime == "0" => {
                write!(f, "a lifetime of 0 takes no earlier result")
            }
            Self::Expired { lifetime } => write!(f, "the earlier result was older than {lifetime}"),
            Self::Removed { by, at } => write!(f, "removed by {by} on {at}"),
            Self::Lost => write!(f, "the earlier result is gone"),
            Self::FailedBefore => write!(f, "failed the last time; a failure is never taken from the cache"),
            Self::Unknown => write!(f, "changed; what it was made of before is no longer known"),
            Self::BaseMoved { name, old, new } => write!(f, "base image {name} moved from {old} to {new}"),
            Self::BaseReplaced { old, new } => write!(f, "base image {old} → {new}"),
            Self::StepAbove { name } => write!(f, "a step above gave something else: {name}"),
            Self::StepAboveAdded { name } => write!(f, "a step above is new: {name}"),
            Self::StepAboveRemoved { name } => write!(f, "a step above is gone: {name}"),
            Self::StepAboveRuns { name } => write!(f, "a step above runs: {name}"),
            Self::Changed(difference) => difference.fmt(f),
        }
    }
}
