//! The judgement: every event that a store holds is shown to a [`Judge`], who then says what is wrong.
//!
//! Left out on purpose: where events come from (see the sources beside this module) and how the outcome is
//! printed (see [`super::report`]).

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ranges::RangeSet, report::Report};
use crate::{
    canonical,
    ledger::{Ledger, StreamLedger},
};

/// Findings of one kind that are kept as examples; further ones are only counted.
pub(crate) const EXAMPLES_MAX: usize = 20;

/// What is expected of the stores; the same for each reading of them.
#[derive(Debug, Default)]
pub(crate) struct Expectation {
    /// Only streams whose names start with one of these are judged; all when empty.
    pub(crate) stream_prefixes: Vec<String>,
    /// Only events whose tags start with this are judged.
    pub(crate) tag_prefix: Option<String>,
    /// Events in all, each counted once.
    pub(crate) events: Option<u64>,
    /// What was sent, by stream.
    pub(crate) ledger: Option<Ledger>,
    /// What another source holds.
    pub(crate) minutes: Option<Minutes>,
    /// Whether to count by minute.
    pub(crate) per_minute: bool,
}

impl Expectation {
    /// Whether nothing says what there should be: then nothing at all cannot be right either.
    fn is_open(&self) -> bool {
        self.events.is_none() && self.ledger.is_none() && self.minutes.is_none() && !self.per_minute
    }

    fn wants_stream(&self, stream: Option<&str>) -> bool {
        self.stream_prefixes.is_empty()
            || stream.is_some_and(|name| self.stream_prefixes.iter().any(|prefix| name.starts_with(prefix)))
    }
}

/// Where an event was found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// A line of a file, counted from 1.
    Line(&'a str, u64),
    /// Topic, partition and offset.
    Offset(&'a str, i32, i64),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(path, line) => write!(out, "{path}:{line}"),
            Self::Offset(topic, partition, offset) => write!(out, "{topic}/{partition}@{offset}"),
        }
    }
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fault {
    /// Expected and not there.
    Lost,
    /// There more than once.
    Doubled,
    /// Not what was sent: the sum differs, or it cannot be read.
    Altered,
    /// There, although nobody sent it.
    Foreign,
}

/// One fault, or a run of like ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What is wrong.
    pub(crate) fault: Fault,
    /// The stream; none when the event does not name one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<String>,
    /// First and last number; none as above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<[u64; 2]>,
    /// Where the first of them was found; none for what was not found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<String>,
    /// More, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

/// Faults counted by kind, with the first of each kind.
#[derive(Debug, Default)]
pub(crate) struct Findings(BTreeMap<Fault, (u64, Vec<Finding>)>);

impl Findings {
    /// Counts `events` more events of this kind.
    pub(crate) fn add(&mut self, events: u64, finding: Finding) {
        let (count, examples) = self.0.entry(finding.fault).or_default();
        *count += events;
        if let (Some(last), Some(seq)) = (examples.last_mut(), finding.seq)
            && let Some(range) = &mut last.seq
            && last.stream == finding.stream
            && range[1].checked_add(1) == Some(seq[0])
        {
            range[1] = seq[1];
        } else if examples.len() < EXAMPLES_MAX {
            examples.push(finding);
        }
    }

    /// Events of this kind.
    pub(crate) fn count(&self, fault: Fault) -> u64 {
        self.0.get(&fault).map_or(0, |(count, _)| *count)
    }

    /// The examples, by kind.
    pub(crate) fn into_examples(self) -> Vec<Finding> {
        self.0.into_values().flat_map(|(_, examples)| examples).collect()
    }
}

/// Count and hash of the events of one minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Minute {
    /// Events.
    pub(crate) events: u64,
    /// Sum of the hashes of their records, in 32 hexadecimal digits.
    #[serde(with = "hex")]
    pub(crate) hash: u128,
}

/// Minutes of event time by their start (`2026-01-31T12:59Z`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Minutes {
    /// The minutes that have events.
    pub(crate) minutes: BTreeMap<String, Minute>,
}

/// A hash as text, for JSON has no such integers.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(hash: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{hash:032x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        u128::from_str_radix(&String::deserialize(deserializer)?, 16).map_err(D::Error::custom)
    }
}

/// An event as stores hold it.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    tag: Cow<'a, str>,
    record: Map<String, Value>,
}

/// What one reading of all sources showed.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    expected: &'a Expectation,
    /// For each stream of the ledger, what was sent of it at all; empty without a ledger.
    sent: HashMap<&'a str, Vec<[u64; 2]>>,
    seen: HashMap<String, RangeSet>,
    doubled_resent: u64,
    /// By minutes since 1970.
    minutes: BTreeMap<i64, Minute>,
    events: u64,
    unjudged: u64,
    hash: u128,
    findings: Findings,
}

impl<'a> Judge<'a> {
    /// A judge who has seen nothing.
    pub(crate) fn new(expected: &'a Expectation) -> Self {
        let sent_of = |stream: &StreamLedger| {
            let mut all = stream.acked.clone();
            all.0.extend(&stream.maybe.0);
            all.settle();
            all.0
        };
        let streams = expected.ledger.iter().flat_map(|ledger| &ledger.streams);
        Self {
            expected,
            sent: streams.map(|(name, stream)| (name.as_str(), sent_of(stream))).collect(),
            seen: HashMap::new(),
            doubled_resent: 0,
            minutes: BTreeMap::new(),
            events: 0,
            unjudged: 0,
            hash: 0,
            findings: Findings::default(),
        }
    }

    /// Looks at one event: a line of JSON.
    pub(crate) fn event(&mut self, line: &[u8], place: Place<'_>) {
        let envelope: Envelope<'_> = match serde_json::from_slice(line) {
            Ok(envelope) => envelope,
            Err(error) => return self.damaged(place, &error),
        };
        let mut record = envelope.record;
        let name = record.get("stream").and_then(Value::as_str);
        if !self.expected.wants_stream(name)
            || self.expected.tag_prefix.as_deref().is_some_and(|prefix| !envelope.tag.starts_with(prefix))
        {
            return;
        }
        self.events += 1;
        let hash = canonical::hash(&record);
        self.hash = self.hash.wrapping_add(hash);
        if self.expected.per_minute {
            match envelope.time.parse::<jiff::Timestamp>() {
                Ok(time) => {
                    let minute = self.minutes.entry(time.as_second().div_euclid(60)).or_default();
                    minute.events += 1;
                    minute.hash = minute.hash.wrapping_add(hash);
                }
                Err(error) => self.damaged(place, &error),
            }
        }
        let (Some(Value::String(stream)), Some(seq)) = (record.remove("stream"), number(&mut record)) else {
            self.unjudged += 1;
            return;
        };
        let sum = record.remove("sum");
        self.numbered(&stream, seq, place);
        if let Some(sum) = sum
            && sum.as_str() != Some(canonical::sum(&record).as_str())
        {
            self.find(Fault::Altered, &stream, seq, place);
        }
    }

    /// Notes that something at `place` cannot be read.
    pub(crate) fn damaged(&mut self, place: Place<'_>, error: &dyn fmt::Display) {
        self.findings.add(
            1,
            Finding {
                fault: Fault::Altered,
                stream: None,
                seq: None,
                place: Some(place.to_string()),
                detail: Some(error.to_string()),
            },
        );
    }

    fn numbered(&mut self, stream: &str, seq: u64, place: Place<'_>) {
        if self.expected.ledger.is_some() {
            let Some(sent) = self.sent.get(stream) else {
                self.unjudged += 1;
                return;
            };
            let after = sent.partition_point(|range| range[0] <= seq);
            if after == 0 || sent[after - 1][1] < seq {
                self.find(Fault::Foreign, stream, seq, place);
            }
        }
        let fresh = match self.seen.get_mut(stream) {
            Some(seen) => seen.insert(seq),
            None => self.seen.entry(stream.to_owned()).or_default().insert(seq),
        };
        if !fresh {
            let stream_sent = self.expected.ledger.as_ref().and_then(|ledger| ledger.streams.get(stream));
            self.doubled_resent += u64::from(stream_sent.is_some_and(|sent| sent.resent.contains(seq)));
            self.find(Fault::Doubled, stream, seq, place);
        }
    }

    fn find(&mut self, fault: Fault, stream: &str, seq: u64, place: Place<'_>) {
        let stream = Some(stream.to_owned());
        let place = Some(place.to_string());
        self.findings.add(1, Finding { fault, stream, seq: Some([seq, seq]), place, detail: None });
    }

    /// The verdict, once all sources have been read.
    pub(crate) fn finish(mut self) -> Report {
        let none = RangeSet::default();
        let mut lost: Vec<(&str, [u64; 2])> = Vec::new();
        if let Some(ledger) = &self.expected.ledger {
            for (name, stream) in &ledger.streams {
                if self.expected.wants_stream(Some(name)) {
                    let seen = self.seen.get(name).unwrap_or(&none);
                    let missing = stream.acked.0.iter().flat_map(|range| seen.missing(range[0], range[1]));
                    lost.extend(missing.map(|range| (name.as_str(), range)));
                }
            }
        } else {
            for (name, seen) in &self.seen {
                let missing = seen.max().map(|max| seen.missing(0, max)).unwrap_or_default();
                lost.extend(missing.into_iter().map(|range| (name.as_str(), range)));
            }
            lost.sort_unstable();
        }
        for (stream, seq) in lost {
            let stream = Some(stream.to_owned());
            let events = (seq[1] - seq[0]).saturating_add(1);
            let finding = Finding { fault: Fault::Lost, stream, seq: Some(seq), place: None, detail: None };
            self.findings.add(events, finding);
        }
        self.compare_total();
        let minutes =
            Minutes { minutes: self.minutes.iter().map(|(at, m)| (minute_name(*at), m.clone())).collect() };
        let differing =
            self.expected.minutes.as_ref().map(|other| differing(&minutes, other)).unwrap_or_default();
        Report {
            events: self.events,
            streams: self.seen.len() as u64,
            unjudged: self.unjudged,
            lost: self.findings.count(Fault::Lost),
            doubled: self.findings.count(Fault::Doubled),
            doubled_resent: self.doubled_resent,
            altered: self.findings.count(Fault::Altered),
            foreign: self.findings.count(Fault::Foreign),
            hash: format!("{:032x}", self.hash),
            differing_minutes: differing,
            examples: self.findings.into_examples(),
            minutes,
        }
    }

    /// Counts as lost or foreign what the expected total says beyond what the numbers say.
    fn compare_total(&mut self) {
        if self.expected.is_open() && self.events == 0 {
            let detail = Some("no events at all, and nothing says how many there should be".to_owned());
            self.findings
                .add(1, Finding { fault: Fault::Lost, stream: None, seq: None, place: None, detail });
        }
        let Some(expected) = self.expected.events else { return };
        let once = self.events - self.findings.count(Fault::Doubled);
        let (fault, by_total) =
            if once < expected { (Fault::Lost, expected - once) } else { (Fault::Foreign, once - expected) };
        let Some(events) = by_total.checked_sub(self.findings.count(fault)).filter(|events| *events > 0)
        else {
            return;
        };
        let detail = Some(format!("{once} different events where {expected} are expected"));
        self.findings.add(events, Finding { fault, stream: None, seq: None, place: None, detail });
    }
}

/// Takes the record's number out of it.
fn number(record: &mut Map<String, Value>) -> Option<u64> {
    record.remove("seq")?.as_u64()
}

/// The start of a minute, counted since 1970.
fn minute_name(minute: i64) -> String {
    jiff::Timestamp::from_second(minute.saturating_mul(60))
        .map_or_else(|_| minute.to_string(), |time| time.strftime("%Y-%m-%dT%H:%MZ").to_string())
}

/// The minutes that two sources do not agree on.
fn differing(ours: &Minutes, theirs: &Minutes) -> Vec<String> {
    let all = ours.minutes.keys().chain(theirs.minutes.keys());
    let mut names: Vec<String> =
        all.filter(|name| ours.minutes.get(*name) != theirs.minutes.get(*name)).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names
}
