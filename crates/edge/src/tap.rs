//! A look at batches as they come in, for people. It costs one relaxed load for each batch while nobody looks, and never
//! waits: what a slow onlooker does not take is passed over.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use weir_model::BatchHeader;
use weir_routing::Pattern;

/// Onlookers at once; one more is turned away.
const ONLOOKERS_MAX: usize = 8;
/// Batches that wait for an onlooker.
const WAITING_MAX: usize = 16;

/// A batch that somebody looks at.
#[derive(Debug, Clone)]
pub struct Tapped {
    /// Its tag, encoding and count.
    pub header: Arc<BatchHeader>,
    /// Its entries, as they came.
    pub payload: Bytes,
}

/// Where onlookers stand.
#[derive(Default)]
pub(crate) struct Tap {
    count: AtomicUsize,
    onlookers: Mutex<Vec<Onlooker>>,
}

struct Onlooker {
    pattern: Option<Pattern>,
    every: Duration,
    next: Instant,
    batches: mpsc::Sender<Tapped>,
}

impl Tap {
    /// Shows batches whose tags match, at most one `every` so often; none when there are onlookers enough.
    pub(crate) fn watch(&self, pattern: Option<Pattern>, every: Duration) -> Option<mpsc::Receiver<Tapped>> {
        let mut onlookers = self.onlookers.lock().ok()?;
        onlookers.retain(|onlooker| !onlooker.batches.is_closed());
        if onlookers.len() >= ONLOOKERS_MAX {
            return None;
        }
        let (batches, taken) = mpsc::channel(WAITING_MAX);
        onlookers.push(Onlooker { pattern, every, next: Instant::now(), batches });
        self.count.store(onlookers.len(), Ordering::Relaxed);
        Some(taken)
    }

    /// Shows a batch to whoever wants it.
    pub(crate) fn show(&self, header: &BatchHeader, payload: &Bytes) {
        if self.count.load(Ordering::Relaxed) > 0 {
            self.show_to(header, payload, Instant::now());
        }
    }

    fn show_to(&self, header: &BatchHeader, payload: &Bytes, now: Instant) {
        // Another connection is at it: this batch is not seen.
        let Ok(mut onlookers) = self.onlookers.try_lock() else { return };
        for onlooker in onlookers.iter_mut().filter(|onlooker| onlooker.next <= now) {
            if onlooker.pattern.as_ref().is_none_or(|pattern| pattern.matches(&header.tag)) {
                onlooker.next = now + onlooker.every;
                let tapped = Tapped { header: Arc::new(header.clone()), payload: payload.clone() };
                let _ = onlooker.batches.try_send(tapped);
            }
        }
        onlookers.retain(|onlooker| !onlooker.batches.is_closed());
        self.count.store(onlookers.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use weir_model::Encoding;

    use super::*;

    fn header(tag: &str) -> BatchHeader {
        BatchHeader {
            tag: tag.into(),
            encoding: Encoding::Plain,
            received_ns: 0,
            chunks: Vec::new(),
            unpacked_bytes: 0,
            minutes: Vec::new(),
        }
    }

    #[test]
    fn an_onlooker_sees_its_tags_at_its_rate_and_holds_nobody_up() {
        let (tap, now) = (Tap::default(), Instant::now());
        let second = Duration::from_secs(1);
        let mut seen = tap.watch(Some(Pattern::parse("a.*").unwrap()), second).unwrap();
        let began = Instant::now();
        for (tag, at) in [("b", 0), ("a.b", 0), ("a.c", 0), ("a.d", 1), ("a.e", 3)] {
            tap.show_to(&header(tag), &Bytes::new(), began + second * at);
        }
        for tag in ["a.b", "a.d", "a.e"] {
            assert_eq!(&*seen.try_recv().unwrap().header.tag, tag);
        }
        assert!(seen.try_recv().is_err());
        // Nobody takes these.
        for count in 4..1000 {
            tap.show_to(&header("a.b"), &Bytes::new(), now + second * count);
        }
        drop(seen);
        tap.show_to(&header("a.b"), &Bytes::new(), now);
        assert_eq!(tap.count.load(Ordering::Relaxed), 0);
        let _held: Vec<_> = (0..ONLOOKERS_MAX).map(|_| tap.watch(None, second).unwrap()).collect();
        assert!(tap.watch(None, second).is_none());
    }
}
