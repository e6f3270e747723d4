//! The outcome of `verify`, as JSON and as text.

use std::fmt;

use serde::Serialize;

use super::judge::{EXAMPLES_MAX, Fault, Finding, Minutes};

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Events that matched the filters, doubled ones counted each time.
    pub(crate) events: u64,
    /// Streams that were judged.
    pub(crate) streams: u64,
    /// Events only counted and hashed: without a number, or of a stream that the ledger does not name.
    pub(crate) unjudged: u64,
    /// Events that should be there and are not.
    pub(crate) lost: u64,
    /// Events beyond the first of the same stream and number.
    pub(crate) doubled: u64,
    /// Of these, events that their sender had offered more than once, as the ledger says.
    pub(crate) doubled_resent: u64,
    /// Events whose sum differs, and places that cannot be read.
    pub(crate) altered: u64,
    /// Events of known streams that nobody sent, and events beyond the expected total.
    pub(crate) foreign: u64,
    /// Sum of the hashes of all records, whatever their order.
    pub(crate) hash: String,
    /// Minutes that differ from the other source's.
    pub(crate) differing_minutes: Vec<String>,
    /// The first findings of each kind.
    pub(crate) examples: Vec<Finding>,
    /// By minute, when asked for; printed by itself.
    #[serde(skip)]
    pub(crate) minutes: Minutes,
}

impl Report {
    /// Whether all that is expected is there. It may still be doubled or altered, which waiting does not mend.
    pub(crate) fn is_complete(&self) -> bool {
        self.lost == 0 && self.differing_minutes.is_empty()
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_fine(&self) -> bool {
        self.is_complete() && self.doubled == 0 && self.altered == 0 && self.foreign == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {} events", if self.is_fine() { "fine" } else { "NOT FINE" }, self.events)?;
        write!(out, " of {} streams ({} not judged); ", self.streams, self.unjudged)?;
        write!(
            out,
            "{} lost, {} doubled, {} altered, {} foreign",
            self.lost, self.doubled, self.altered, self.foreign
        )?;
        if self.doubled_resent > 0 {
            write!(out, "; {} of the doubled were resent by their sender", self.doubled_resent)?;
        }
        writeln!(out, "\nhash {}", self.hash)?;
        for finding in &self.examples {
            writeln!(out, "{finding}")?;
        }
        for minute in self.differing_minutes.iter().take(EXAMPLES_MAX) {
            writeln!(out, "differs: minute {minute}")?;
        }
        let more = self.differing_minutes.len().saturating_sub(EXAMPLES_MAX);
        if more > 0 {
            writeln!(out, "differs: {more} more minutes")?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = match self.fault {
            Fault::Lost => "lost",
            Fault::Doubled => "doubled",
            Fault::Altered => "altered",
            Fault::Foreign => "foreign",
        };
        write!(out, "{fault}:")?;
        if let Some(stream) = &self.stream {
            write!(out, " {stream}")?;
        }
        match self.seq {
            Some([first, last]) if first == last => write!(out, " seq {first}")?,
            Some([first, last]) => write!(out, " seq {first}-{last}")?,
            None => {}
        }
        if let Some(place) = &self.place {
            write!(out, " at {place}")?;
        }
        if let Some(detail) = &self.detail {
            write!(out, " {detail}")?;
        }
        Ok(())
    }
}
