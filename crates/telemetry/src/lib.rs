//! What a node tells its operator: metrics, logs, and whether it is well.
//!
//! Every metric of the project is in [`names`], with its unit, labels and a sentence for whoever is woken by it;
//! a program takes a handle there and counts. Per-tag figures have a table of their own ([`TagTable`]), as there
//! may be 100 000 tags. [`Server`] shows it all over HTTP, beside `/health` and `/ready`, which a program feeds
//! through [`Health`]. [`Logging`] sets logs up; [`Refusals`] keeps a flood out of them.
//!
//! Left out on purpose: what any number should be, and alarms; those are in the rules that ship with Weir. This
//! is the only home of `metrics-exporter-prometheus`, of `tracing-subscriber`, and of the pages' HTTP server.

mod health;
mod logging;
mod metric;
pub mod names;
mod refusals;
mod server;
mod tags;
mod totals;

pub use health::Health;
pub use logging::{LogFormat, Logging, LoggingError};
pub use metric::{Entry, Handle, Kind, Metric, ShownCounter, ShownGauge};
pub use metrics::{Counter, Gauge, Histogram, Unit};
pub use refusals::{Gate, Refusals};
pub use server::{Page, Server, ServerError, resident_memory};
pub use tags::{Direction, OTHER_TAG, TAGS_MAX_DEFAULT, TagCounter, TagTable};
pub use totals::Totals;
