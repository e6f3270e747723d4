//! Batches in memory on their way from a group's log to its sinks: counted, so that a slow link costs no memory.
//!
//! Left out on purpose: what to do when there is no room (see `ship.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;
use weir_spool::Stored;

/// Most bytes of one group in memory between reading and sending; what does not fit is read again.
const BYTES_MAX: usize = 24 << 20;
/// Above this the log is not read on while there is progress.
const BYTES_ENOUGH: usize = 16 << 20;

/// The bytes of one group that are in memory.
#[derive(Clone, Default)]
pub(crate) struct Hand(Arc<Counts>);

#[derive(Default)]
struct Counts {
    bytes: AtomicUsize,
    released: AtomicU64,
    room: Notify,
}

/// A record in memory. It counts while it lives.
pub(crate) struct InHand {
    pub(crate) stored: Stored,
    _room: Room,
}

impl InHand {
    /// `room` is what was taken for it.
    pub(crate) fn new(stored: Stored, room: Room) -> Self {
        Self { stored, _room: room }
    }
}

/// Room for one record in memory; dropping it gives it back.
pub(crate) struct Room {
    bytes: usize,
    hand: Hand,
}

impl Hand {
    /// Takes room for a record, if there is some.
    pub(crate) fn take(&self, stored: &Stored) -> Option<Room> {
        // Whoever has the reader alone takes, so nobody comes in between.
        let bytes = stored.payload.len() + stored.header.len();
        let fits = self.0.bytes.load(Relaxed) + bytes <= BYTES_MAX;
        fits.then(|| {
            self.0.bytes.fetch_add(bytes, Relaxed);
            Room { bytes, hand: self.clone() }
        })
    }

    /// Whether reading on makes sense.
    pub(crate) fn has_room(&self) -> bool {
        self.0.bytes.load(Relaxed) < BYTES_ENOUGH
    }

    /// Returns once there is room again after there was none.
    pub(crate) async fn room(&self) {
        self.0.room.notified().await;
    }

    /// How many records were let go so far: if it stands still, the sinks do.
    pub(crate) fn released(&self) -> u64 {
        self.0.released.load(Relaxed)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let counts = &self.hand.0;
        let before = counts.bytes.fetch_sub(self.bytes, Relaxed);
        counts.released.fetch_add(1, Relaxed);
        if before >= BYTES_ENOUGH && before - self.bytes < BYTES_ENOUGH {
            counts.room.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weir_model::Seq;

    use super::*;

    fn record(bytes: usize) -> Stored {
        Stored { seq: Seq(0), time_ns: 0, header: Bytes::new(), payload: vec![0; bytes].into() }
    }

    #[tokio::test]
    async fn what_is_sent_makes_room() {
        let hand = Hand::default();
        let keep = |bytes| hand.take(&record(bytes)).map(|room| InHand::new(record(bytes), room));
        let first = keep(BYTES_ENOUGH).unwrap();
        assert!(!hand.has_room());
        let second = keep(BYTES_MAX - BYTES_ENOUGH).unwrap();
        assert!(keep(1).is_none());
        drop(second);
        assert!(!hand.has_room() && hand.released() == 1);
        drop(first);
        tokio::time::timeout(std::time::Duration::from_secs(30), hand.room()).await.unwrap();
        assert!(hand.has_room() && hand.released() == 2);
    }
}
