//! The cases of a bench, by name: what is measured, with what traffic.

use super::{hostile::Foe, load::Load, traffic::Shape};
use crate::chunk::Mode;

/// What a case measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Job {
    /// An edge whose sinks are stopped: socket to synced log.
    Log,
    /// Edge, link and sink: socket to finished JSON-lines file.
    File,
    /// The same into Kafka, against its client library alone.
    Kafka,
    /// Acknowledgement latency of an edge at half of what its log took at most.
    Latency,
    /// A backlog drains while new traffic comes at half of the maximum.
    Backlog,
    /// An edge killed with a large log starts again.
    Restart,
    /// An edge and a sink that have nothing to do.
    Idle,
    /// An edge with thousands of connections that say nothing.
    IdleConnections,
    /// Thousands of connects at once.
    Storm,
    /// An edge that somebody looks into.
    Tap,
    /// A sender that behaves beside peers that do not.
    Hostile(Foe),
}

impl Job {
    fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::File => "file",
            Self::Kafka => "kafka",
            Self::Latency => "latency",
            Self::Backlog => "backlog",
            Self::Restart => "restart",
            Self::Idle => "idle",
            Self::IdleConnections => "idle-connections",
            Self::Storm => "storm",
            Self::Tap => "tap",
            Self::Hostile(foe) => foe.name(),
        }
    }
}

/// One case.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) job: Job,
    pub(super) shape: Shape,
    pub(super) load: Load,
}

/// Bytes of events that one run sends at scale 1.
const RUN_BYTES: f64 = 500e6;
/// Single-event messages cost every receiver many times more: a run of these has fewer bytes.
const SINGLES_BYTES: f64 = 150e6;
/// What a compressed run may hold, as less comes over the wire.
const PACKED_BYTES: f64 = 1000e6;

/// All cases, in order; `scale` stretches their length.
pub(super) fn all(scale: f64) -> Vec<Case> {
    use Mode::{Forward, Gzip, Message, Packed, Zstd};
    // What others do to a sender shows in some seconds only.
    let long = |job| case(job, Packed, 250, 1, 4, true, 4.0 * scale);
    let case =
        |job, mode, bytes, tags, connections, ack| case(job, mode, bytes, tags, connections, ack, scale);
    let mut cases = vec![
        case(Job::Log, Packed, 250, 1, 4, true),
        case(Job::Log, Packed, 100, 1, 4, true),
        case(Job::Log, Packed, 1024, 1, 4, true),
        case(Job::Log, Packed, 16 << 10, 1, 4, true),
        case(Job::Log, Packed, 250, 1000, 4, true),
        case(Job::Log, Packed, 250, 100_000, 4, true),
        case(Job::Log, Packed, 250, 1, 1, true),
        case(Job::Log, Packed, 250, 1, 100, true),
        case(Job::Log, Packed, 250, 1, 5000, true),
        case(Job::Log, Forward, 250, 1, 4, true),
        case(Job::Log, Gzip, 250, 1, 4, true),
        case(Job::Log, Zstd, 250, 1, 4, true),
        case(Job::Log, Message, 250, 1, 4, false),
        case(Job::Log, Message, 250, 1, 4, true),
        case(Job::Log, Message, 250, 1000, 4, true),
        case(Job::File, Packed, 250, 1, 4, true),
        case(Job::File, Packed, 1024, 1, 4, true),
        case(Job::File, Packed, 250, 1000, 4, true),
        case(Job::File, Packed, 250, 100_000, 4, true),
        case(Job::File, Message, 250, 1, 4, false),
        case(Job::File, Message, 250, 1, 4, true),
        case(Job::Kafka, Packed, 250, 1, 4, true),
        case(Job::Latency, Packed, 250, 1, 4, true),
        case(Job::Backlog, Packed, 250, 1, 4, true),
        case(Job::Restart, Packed, 250, 1, 4, true),
        case(Job::Idle, Packed, 250, 1, 4, true),
        case(Job::IdleConnections, Packed, 250, 1, 4, true),
        case(Job::Storm, Packed, 250, 1, 4, true),
        long(Job::Tap),
    ];
    cases.extend(Foe::ALL.map(|foe| long(Job::Hostile(foe))));
    cases
}

/// The cases that are asked for: those of [`all`] whose names begin with one of `texts`, and those of the whole matrix
/// whose names are one of them, where `*` stands for anything between two slashes. Without texts: [`all`].
pub(super) fn wanted(texts: &[String], scale: f64) -> Vec<Case> {
    let mut cases = all(scale);
    if !texts.is_empty() {
        cases.retain(|case| texts.iter().any(|text| case.name.starts_with(text)));
        let asked = |case: &Case| texts.iter().any(|text| fits(text, &case.name));
        let mut others = matrix(scale);
        others.retain(|case| asked(case) && cases.iter().all(|other| other.name != case.name));
        cases.extend(others);
    }
    cases
}

/// Every traffic into the log and into files.
fn matrix(scale: f64) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut of_mode = |job, mode| {
        for bytes in [100, 250, 1024, 16 << 10] {
            for tags in [1, 1000, 100_000] {
                for connections in [1, 4, 100, 5000] {
                    let case = |ack| case(job, mode, bytes, tags, connections, ack, scale);
                    cases.extend([true, false].map(case));
                }
            }
        }
    };
    for job in [Job::Log, Job::File] {
        for mode in [Mode::Message, Mode::Forward, Mode::Packed, Mode::Gzip, Mode::Zstd] {
            of_mode(job, mode);
        }
    }
    cases
}

fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.split('/'), name.split('/'));
    pattern.clone().count() == name.clone().count()
        && pattern.zip(name).all(|(pattern, name)| pattern == "*" || pattern == name)
}

fn case(
    job: Job,
    mode: Mode,
    event_bytes: usize,
    tags: usize,
    connections: u32,
    ack: bool,
    scale: f64,
) -> Case {
    // 1000 events in a chunk, as senders make them, but no chunk above a megabyte and few events where there
    // are thousands of connections.
    let chunk_events = match connections {
        1000.. => 50,
        _ => (1 << 20) / event_bytes,
    };
    let shape = Shape { mode, event_bytes, chunk_events: chunk_events.clamp(1, 1000), tags, ack };
    let bytes = match mode {
        Mode::Message => SINGLES_BYTES,
        Mode::Gzip | Mode::Zstd => PACKED_BYTES,
        Mode::Forward | Mode::Packed => RUN_BYTES,
    };
    let events = (bytes * scale / event_bytes as f64) as u64;
    let load = Load { connections, first: 0, events: events.max(1), window: 8, rate: None };
    let mut name = format!("{}/{}/{event_bytes}B/{tags}t/{connections}c", job.name(), mode_name(mode));
    if !matches!(job, Job::Log | Job::File | Job::Kafka | Job::Latency | Job::Backlog) {
        name = job.name().to_owned();
    } else if !ack {
        name.push_str("/noack");
    }
    Case { name, job, shape, load }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Message => "message",
        Mode::Forward => "forward",
        Mode::Packed => "packed",
        Mode::Gzip => "gzip",
        Mode::Zstd => "zstd",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = all(1.0).into_iter().map(|case| case.name).collect();
        assert_eq!(names[0], "log/packed/250B/1t/4c");
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn the_matrix_is_asked_for_by_pattern() {
        let names = |text: &str| -> Vec<String> {
            wanted(&[text.to_owned()], 1.0).into_iter().map(|case| case.name).collect()
        };
        assert_eq!(names("file/zstd/1024B/1000t/100c"), ["file/zstd/1024B/1000t/100c"]);
        assert_eq!(names("log/*/250B/1t/4c").len(), 5);
        assert_eq!(names("log/*/*/*/*").len(), 5 * 4 * 3 * 4);
        assert_eq!(names("restart"), ["restart"]);
        assert!(names("log/packed/250B/7t/4c").is_empty());
        assert_eq!(wanted(&[], 1.0).len(), all(1.0).len());
    }
}
