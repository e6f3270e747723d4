//! How a metric is declared, and how a name becomes a handle that counts.

use std::marker::PhantomData;
use std::sync::{Arc, LazyLock};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::names;

/// Bounds of the histograms, in seconds: from a commit to a local file to one that waits for a store under load.
const SECONDS_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// What kind of metric a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows; starts from 0 with the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// The word that the exposition format has for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What handles of a metric are, and so its kind.
pub trait Handle {
    /// The kind that goes with these handles.
    const KIND: Kind;
}

/// Stands for the handle of a counter that [`Server`](crate::Server) works out itself: nobody else counts there.
#[derive(Debug)]
pub enum ShownCounter {}

/// The same for a gauge.
#[derive(Debug)]
pub enum ShownGauge {}

impl Handle for Counter {
    const KIND: Kind = Kind::Counter;
}

impl Handle for ShownCounter {
    const KIND: Kind = Kind::Counter;
}

impl Handle for Gauge {
    const KIND: Kind = Kind::Gauge;
}

impl Handle for ShownGauge {
    const KIND: Kind = Kind::Gauge;
}

impl Handle for Histogram {
    const KIND: Kind = Kind::Histogram;
}

/// All there is to know of a metric.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The name as Prometheus sees it.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// Names of its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// A sentence for the operator.
    pub help: &'static str,
}

/// A declared metric with `L` labels, whose handles are of type `H`.
#[derive(Debug)]
pub struct Metric<H, const L: usize> {
    entry: Entry,
    handle: PhantomData<fn() -> H>,
}

impl<H, const L: usize> Metric<H, L> {
    pub(crate) const fn declare(entry: Entry) -> Self {
        Self { entry, handle: PhantomData }
    }

    /// What it is called, and the rest.
    #[must_use]
    pub const fn entry(&self) -> &Entry {
        &self.entry
    }

    fn key(&self, values: [&str; L]) -> Key {
        let labels =
            self.entry.labels.iter().zip(values).map(|(name, value)| Label::new(*name, value.to_owned()));
        Key::from_parts(self.entry.name, labels.collect::<Vec<_>>())
    }
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

impl<const L: usize> Metric<Counter, L> {
    /// The counter for these label values. Finding it costs a look into a map: keep the handle where it is hot.
    pub fn with(&self, values: [&str; L]) -> Counter {
        RECORDER.register_counter(&self.key(values), &METADATA)
    }
}

impl<const L: usize> Metric<Gauge, L> {
    /// The gauge for these label values. It is shown from now until the process ends: set it to 0 when its subject
    /// goes away.
    pub fn with(&self, values: [&str; L]) -> Gauge {
        RECORDER.register_gauge(&self.key(values), &METADATA)
    }
}

impl<const L: usize> Metric<Histogram, L> {
    /// The histogram for these label values.
    pub fn with(&self, values: [&str; L]) -> Histogram {
        RECORDER.register_histogram(&self.key(values), &METADATA)
    }
}

/// The one recorder of the process, made by whoever first takes a handle, so that no handle can come too early
/// and count into nothing.
///
/// It has no idle timeout: an idle series would be dropped, and a handle that somebody kept would go on counting
/// into a series that is shown no more.
static RECORDER: LazyLock<Arc<PrometheusRecorder>> = LazyLock::new(|| {
    let mut builder = PrometheusBuilder::new();
    for entry in names::ALL.iter().filter(|entry| entry.kind == Kind::Histogram) {
        // Without bounds a histogram would become a summary, which cannot be added up over nodes.
        builder = builder
            .set_buckets_for_metric(Matcher::Full(entry.name.to_owned()), &SECONDS_BUCKETS)
            .expect("the bounds are not empty");
    }
    let recorder = Arc::new(builder.build_recorder());
    for entry in names::ALL {
        let (name, unit, help) = (entry.name.into(), Some(entry.unit), entry.help.into());
        match entry.kind {
            Kind::Counter => recorder.describe_counter(name, unit, help),
            Kind::Gauge => recorder.describe_gauge(name, unit, help),
            Kind::Histogram => recorder.describe_histogram(name, unit, help),
        }
    }
    // For packages below us that count with the `metrics` macros. If somebody was first, theirs go there.
    let _ = metrics::set_global_recorder(recorder.clone());
    recorder
});

pub(crate) fn recorder_handle() -> PrometheusHandle {
    RECORDER.handle()
}
