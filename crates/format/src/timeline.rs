//! Timeline numbers: every promotion starts a new one (`access/xlogdefs.h`, `TimeLineID`, 32 bits).
//!
//! Zero is no timeline; PostgreSQL uses it for "none", which is an `Option` here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A timeline; never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct TimelineId(u32);

impl TimelineId {
    /// The timeline that initdb starts; it has no history file.
    pub const FIRST: TimelineId = TimelineId(1);

    /// The timeline of that number, unless it is zero.
    #[must_use]
    pub const fn new(number: u32) -> Option<TimelineId> {
        if number == 0 { None } else { Some(TimelineId(number)) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for TimelineId {
    type Error = ZeroTimeline;

    fn try_from(number: u32) -> Result<Self, Self::Error> {
        TimelineId::new(number).ok_or(ZeroTimeline)
    }
}

impl From<TimelineId> for u32 {
    fn from(timeline: TimelineId) -> u32 {
        timeline.get()
    }
}

/// Zero is not a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("0 is not a timeline")]
pub struct ZeroTimeline;

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
