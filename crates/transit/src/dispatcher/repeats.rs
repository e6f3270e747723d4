//! The same chunk through several edges: what this log says of it when a sink asks, and what a sink says of it.
//!
//! Left out on purpose: which chunks the log took lately; see [`Recent`](crate::Recent).

use weir_model::{Epoch, Fingerprint, NodeId, PartId, Seq, SeqRanges};

use super::{After, Dispatcher, Link, Place};
use crate::frame::ToSink;
use crate::journal::JournalRecord;

/// What an edge answers for one chunk.
enum Word {
    /// It is not here, or not read from the log yet.
    Unknown,
    /// Go on.
    Free,
    /// The store has it.
    Stored,
    /// The store may have it, or another sink may commit it: ask again later.
    Elsewhere,
}

impl Dispatcher {
    /// Answers a sink with what became of its chunks (see [`DispatcherOutput::Recall`](crate::DispatcherOutput)), each
    /// with the batch of this log that has it; `half_done` are those that are half done there.
    ///
    /// A chunk that is not here yet may still come: its batch will go to the sink that asks, which has its twin.
    /// A batch that another sink has, and might commit, is taken back from it and given to the one that asks. Of two
    /// sinks that ask for each other's, that with the half-done batch keeps what it has, else that with the smaller
    /// name, so that one of them goes on.
    pub fn recalled(
        &mut self,
        sink: &NodeId,
        session: Epoch,
        part: PartId,
        chunks: &[(Fingerprint, Option<Seq>)],
        half_done: &[(Fingerprint, Option<Seq>)],
    ) {
        let (mut stored, mut elsewhere) = (Vec::new(), Vec::new());
        let asked =
            chunks.iter().map(|asked| (asked, false)).chain(half_done.iter().map(|asked| (asked, true)));
        for (&(chunk, seq), half_done) in asked {
            match seq.map_or(Word::Unknown, |seq| self.word(sink, seq, half_done)) {
                Word::Unknown => self.seek(chunk, sink),
                Word::Free => {}
                Word::Stored => stored.push(chunk),
                Word::Elsewhere => elsewhere.push(chunk),
            }
        }
        self.control(sink, session, ToSink::Recalled { part, stored, elsewhere });
    }

    fn word(&mut self, sink: &NodeId, seq: Seq, half_done_there: bool) -> Word {
        if self.recovered.dropped.contains(seq) {
            return Word::Free;
        }
        if self.recovered.done.contains(seq) {
            return Word::Stored;
        }
        let half_done = self.recovered.half_done.contains_key(&seq);
        let place = self.batches.get(&seq).map(|batch| (batch.place.clone(), batch.bytes));
        match place {
            Some((Place::Promised(_), _)) => Word::Elsewhere,
            // What is half done goes first: another batch of the chunk would store what the store has of it.
            _ if half_done && !half_done_there => Word::Elsewhere,
            Some((Place::Sent(other), _)) if other < *sink && half_done == half_done_there => Word::Elsewhere,
            Some((Place::Sent(other), bytes)) if other != *sink => {
                self.landed(&other, bytes);
                if let Some(state) = self.sinks.get_mut(&other) {
                    state.in_flight.remove(&seq);
                    if let Link::Up { session, .. } = state.link {
                        self.taken_back.insert(seq, (other, session));
                    }
                }
                self.bring(seq, sink);
                Word::Free
            }
            Some((Place::Waiting(_), _)) => {
                self.leave_waiting(seq);
                self.bring(seq, sink);
                Word::Free
            }
            None if self.promises.values().any(|promise| promise.ranges.contains(seq)) => Word::Elsewhere,
            // With the sink that asks.
            Some((Place::Sent(_), _)) => Word::Free,
            None => Word::Unknown,
        }
    }

    // The batch waits for this sink, as long as it lives.
    fn bring(&mut self, seq: Seq, sink: &NodeId) {
        if let Some(batch) = self.batches.get_mut(&seq) {
            batch.sought_by = Some(sink.clone());
        }
        self.wait_for(seq, Some(sink.clone()));
    }

    fn seek(&mut self, chunk: Fingerprint, sink: &NodeId) {
        if self.sought.insert(chunk, sink.clone()).is_none() {
            self.sought_order.push_back((self.now, chunk));
        }
        self.forget_sought();
    }

    pub(super) fn forget_sought(&mut self) {
        while let Some((since, chunk)) = self.sought_order.front()
            && (*since + self.config.recall_for < self.now || self.sought.len() > self.config.sought_max)
        {
            self.sought.remove(chunk);
            self.sought_order.pop_front();
        }
    }

    // The store has these already, by other batches.
    pub(super) fn settle_repeated(&mut self, sink: &NodeId, ranges: &SeqRanges) {
        let ours = Place::Sent(sink.clone());
        let mut done = SeqRanges::new();
        for seq in ranges.seqs() {
            if self.batches.get(&seq).is_none_or(|batch| batch.place != ours) {
                continue;
            }
            if let Some(batch) = self.batches.remove(&seq) {
                self.landed(sink, batch.bytes);
                self.committed += 1;
            }
            if let Some(state) = self.sinks.get_mut(sink) {
                state.in_flight.remove(&seq);
            }
            done.insert(seq);
        }
        if !done.is_empty() {
            self.recovered.replay(JournalRecord::Done { ranges: done.clone() });
            self.journal(JournalRecord::Done { ranges: done }, After::Nothing);
            self.outputs.push_back(super::DispatcherOutput::Trim);
        }
    }
}
