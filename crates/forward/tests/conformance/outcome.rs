//! What came of some input, in a form that does not depend on how the input was fragmented.

use std::collections::BTreeMap;
use std::fmt;

use weir_forward::{Event, Limits, Session, Skips, unpack};
use weir_model::Encoding;

pub(crate) const NOW_NS: i64 = 1_700_000_000_000_000_000;

pub(crate) const LIMITS: Limits =
    Limits { message_bytes_max: 4096, unpacked_bytes_max: 2048, pack_bytes_max: 1024 };

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Batch { tag: String, encoding: Encoding, plain: Vec<u8>, acks: Vec<u8>, chunks: usize, skipped: String },
    Ack { ack: Vec<u8>, skipped: String },
    Skipped(String),
    Refused(&'static str),
    Closed(&'static str),
    Incomplete(usize),
}

/// Feeds the pieces to a session as if each had been read at once, then the end of file.
pub(crate) fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Outcome> {
    let mut session = Session::new(LIMITS);
    let mut outcomes = Vec::new();
    for piece in pieces {
        session.buffer().extend_from_slice(piece);
        loop {
            match session.next(NOW_NS) {
                Ok(None) => break,
                Ok(Some(event)) => push(&mut outcomes, outcome(event)),
                Err(violation) if violation.refused.is_some() => {
                    outcomes.push(Outcome::Refused(violation.fault.label()));
                }
                Err(violation) => {
                    assert_eq!(session.next(NOW_NS), Err(violation.clone()), "a closed session stays closed");
                    outcomes.push(Outcome::Closed(violation.fault.label()));
                    assert_eq!(session.finish(), None);
                    return outcomes;
                }
            }
        }
    }
    outcomes.extend(session.finish().map(Outcome::Incomplete));
    outcomes
}

/// Single events are packed as they happen to arrive together: neighbours are joined, so that any split of
/// the input compares equal.
fn push(outcomes: &mut Vec<Outcome>, outcome: Outcome) {
    if let (
        Some(Outcome::Batch { tag, encoding: Encoding::Plain, plain, acks, chunks, skipped }),
        Outcome::Batch {
            tag: tag2,
            encoding: Encoding::Plain,
            plain: plain2,
            acks: acks2,
            chunks: chunks2,
            skipped: skipped2,
        },
    ) = (outcomes.last_mut(), &outcome)
        && tag == tag2
        && acks.is_empty() == acks2.is_empty()
    {
        plain.extend_from_slice(plain2);
        acks.extend_from_slice(acks2);
        *chunks += chunks2;
        *skipped = counted(counts(skipped).chain(counts(skipped2)));
        return;
    }
    outcomes.push(outcome);
}

fn outcome(event: Event) -> Outcome {
    match event {
        Event::Batch(batch) => {
            let header = &batch.header;
            let plain = unpack::unpack(header.encoding, &batch.payload, 1 << 20).unwrap().into_owned();
            assert_eq!(header.unpacked_bytes, plain.len() as u64);
            assert_eq!(header.received_ns, NOW_NS);
            // The header says what the payload holds, by another way of counting.
            let entries: Vec<_> = weir_forward::scan::entries(&plain).collect::<Result<_, _>>().unwrap();
            assert_eq!(header.events(), entries.len() as u64);
            assert_eq!(header.minutes.iter().map(|m| m.bytes).sum::<u64>(), plain.len() as u64);
            let digest = entries
                .iter()
                .fold(0_u64, |sum, entry| sum.wrapping_add(xxhash_rust::xxh3::xxh3_64(entry.bytes)));
            assert_eq!(header.minutes.iter().fold(0_u64, |sum, m| sum.wrapping_add(m.digest)), digest);
            let claimed: u64 = header.chunks.iter().map(|chunk| chunk.entries).sum();
            assert!(header.chunks.is_empty() || claimed == header.events());
            assert_eq!(header.chunks.is_empty(), batch.acks.is_empty());
            Outcome::Batch {
                tag: header.tag.to_string(),
                encoding: header.encoding,
                plain,
                acks: batch.acks.to_vec(),
                chunks: header.chunks.len(),
                skipped: skips(batch.skipped),
            }
        }
        Event::Ack { ack, skipped } => Outcome::Ack { ack: ack.to_vec(), skipped: skips(skipped) },
        Event::Skipped(skipped) => Outcome::Skipped(skips(skipped)),
    }
}

fn skips(skips: Skips) -> String {
    counted(skips.iter().map(|(reason, count)| (reason.label(), count)))
}

/// The reasons and counts that `counted` wrote.
fn counts(text: &str) -> impl Iterator<Item = (&str, u32)> {
    text.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .map(|(label, count)| (label, count.parse().unwrap()))
}

/// Each reason with its sum, by name.
fn counted<'a>(counts: impl Iterator<Item = (&'a str, u32)>) -> String {
    let mut sums = BTreeMap::new();
    counts.for_each(|(label, count)| *sums.entry(label).or_insert(0) += count);
    sums.iter().map(|(label, count)| format!(" {label}={count}")).collect()
}

/// The entries as text, so that a table of cases can be read.
fn values(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    while !bytes.is_empty() {
        text += &format!(" {}", rmpv::decode::read_value(&mut bytes).unwrap());
    }
    text
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch { tag, encoding, plain, acks, chunks, skipped } => {
                write!(f, "{tag:?} {encoding:?}{}", values(plain))?;
                if *chunks > 0 {
                    write!(f, " chunks {chunks} ack {}", acks.escape_ascii())?;
                }
                if !skipped.is_empty() {
                    write!(f, " skip{skipped}")?;
                }
                Ok(())
            }
            Self::Ack { ack, skipped } if skipped.is_empty() => write!(f, "ack {}", ack.escape_ascii()),
            Self::Ack { ack, skipped } => write!(f, "ack {} skip{skipped}", ack.escape_ascii()),
            Self::Skipped(skipped) => write!(f, "skip{skipped}"),
            Self::Refused(label) => write!(f, "refuse {label}"),
            Self::Closed(label) => write!(f, "close {label}"),
            Self::Incomplete(bytes) => write!(f, "incomplete {bytes}"),
        }
    }
}
