//! How careful a roll-out is.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What happens after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Every node goes back to the revision from before. In a fleet's first roll-out there is none: it halts.
    #[default]
    RollBack,
    /// It halts, and a person decides.
    Halt,
}

/// How careful a roll-out is. Times are whole seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// How long a wave must run the revision, all nodes well, before the next begins.
    pub settle_seconds: u32,
    /// How long a connected node may take to apply or to refuse it.
    pub apply_seconds: u32,
    /// How long a node that had the revision may be away before it counts as lost.
    pub lost_seconds: u32,
    /// How long a node may be unwell, or show more errors, before that counts as a failure.
    pub unwell_seconds: u32,
    /// Errors rise when a node shows more than this many times those from before its wave, ...
    pub errors_factor: f64,
    /// ... and more than this many in a second.
    pub errors_per_second: f64,
    /// Nodes that may fail before the roll-out does.
    pub failures_max: u32,
    /// Whether a person approves each wave after the first.
    pub approval: bool,
    /// What happens after a failure.
    pub on_failure: OnFailure,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            settle_seconds: 30,
            apply_seconds: 120,
            lost_seconds: 60,
            unwell_seconds: 15,
            errors_factor: 2.0,
            errors_per_second: 1.0,
            failures_max: 0,
            approval: false,
            on_failure: OnFailure::RollBack,
        }
    }
}

/// A policy that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {bound}")]
pub struct PolicyError {
    /// The field.
    pub field: &'static str,
    /// What it must be.
    pub bound: &'static str,
}

/// A day: nobody watches a wave for longer.
const SECONDS_MAX: u32 = 86_400;

impl Policy {
    /// Whether its figures make sense.
    ///
    /// # Errors
    /// The first field that does not.
    pub fn check(&self) -> Result<(), PolicyError> {
        let times = [
            ("settle_seconds", self.settle_seconds, 0),
            ("apply_seconds", self.apply_seconds, 1),
            ("lost_seconds", self.lost_seconds, 1),
            ("unwell_seconds", self.unwell_seconds, 1),
        ];
        for (field, seconds, least) in times {
            if seconds < least || seconds > SECONDS_MAX {
                return Err(PolicyError {
                    field,
                    bound: "above 0 (settle_seconds: 0 or more) and at most 86400",
                });
            }
        }
        if !(self.errors_factor >= 1.0 && self.errors_factor.is_finite()) {
            return Err(PolicyError { field: "errors_factor", bound: "1 or more" });
        }
        if !(self.errors_per_second >= 0.0 && self.errors_per_second.is_finite()) {
            return Err(PolicyError { field: "errors_per_second", bound: "0 or more" });
        }
        Ok(())
    }

    pub(super) fn rising(&self, before: f64, now: f64) -> bool {
        now > self.errors_per_second && now > before * self.errors_factor
    }
}

/// Whether `seconds` have passed since `since`. A clock that was set back counts as no time.
pub(super) fn passed(since: Timestamp, seconds: u32, now: Timestamp) -> bool {
    now.duration_since(since) >= SignedDuration::from_secs(i64::from(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_bounded() {
        assert_eq!(Policy::default().check(), Ok(()));
        let wrong = [
            (Policy { apply_seconds: 0, ..Policy::default() }, "apply_seconds"),
            (Policy { lost_seconds: 0, ..Policy::default() }, "lost_seconds"),
            (Policy { settle_seconds: 86_401, ..Policy::default() }, "settle_seconds"),
            (Policy { errors_factor: 0.5, ..Policy::default() }, "errors_factor"),
            (Policy { errors_factor: f64::NAN, ..Policy::default() }, "errors_factor"),
            (Policy { errors_per_second: f64::INFINITY, ..Policy::default() }, "errors_per_second"),
        ];
        for (policy, field) in wrong {
            assert_eq!(policy.check().unwrap_err().field, field);
        }
    }
}
