//! An edge: its log, the real [`Dispatcher`] with its journal, the real [`Recent`] with its file.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use weir_model::{Epoch, Incarnation, LogId, NodeId, Seq, SeqRanges};
use weir_transit::{
    Claim, Dispatcher, DispatcherConfig, DispatcherOutput, JournalRecord, Recent, RecentBounds, RecentRecord,
    Recovered,
};

use crate::plant::Plant;
use crate::rules::Rule;
use crate::world::{ByTag, Event, World, fingerprint, ms};

/// Batches that a log with a quota may hold before it drops the oldest.
const QUOTA_BATCHES: u64 = 8;

pub(crate) struct Edge {
    pub(crate) log_id: Arc<LogId>,
    pub(crate) life: u32,
    pub(crate) dispatcher: Option<Dispatcher>,
    pub(crate) recent: Option<Recent>,
    /// Whether the record of this start is durable: no session before.
    pub(crate) started: bool,
    /// All batches ever appended; what is below `first` is trimmed, what is above `synced` may be lost.
    pub(crate) log: Vec<Batch>,
    first: u64,
    pub(crate) synced: u64,
    offered: u64,
    // Who is to be acknowledged when the log is synced that far, or when another's claim is settled.
    waiting: Vec<(u64, Vec<usize>)>,
    pending: Vec<usize>,
    journal: Vec<Bytes>,
    unsynced: Vec<Bytes>,
    /// What the durable journal says.
    pub(crate) recovered: Recovered,
    recent_file: Vec<Bytes>,
    saving: Option<Vec<Bytes>>,
    pub(crate) last_session: Epoch,
    /// The sinks of the group, as this edge's topology has them.
    pub(crate) members: Vec<NodeId>,
    skew: Duration,
    full_until: Duration,
    drops_oldest: bool,
    /// What was dropped, in truth: batches and their chunks.
    pub(crate) dropped: SeqRanges,
    pub(crate) dropped_chunks: BTreeSet<usize>,
    pub(crate) durable_chunks: BTreeSet<usize>,
}

pub(crate) struct Batch {
    pub(crate) tag: usize,
    pub(crate) chunks: Vec<usize>,
}

impl Edge {
    pub(crate) fn new(n: usize, members: Vec<NodeId>, drops_oldest: bool) -> Self {
        let log_id = LogId {
            edge: NodeId::new(&format!("e{n}")).unwrap(),
            group: "g".parse().unwrap(),
            incarnation: Incarnation(7),
        };
        Self {
            log_id: Arc::new(log_id),
            life: 0,
            dispatcher: None,
            recent: None,
            started: false,
            log: Vec::new(),
            first: 0,
            synced: 0,
            offered: 0,
            waiting: Vec::new(),
            pending: Vec::new(),
            journal: Vec::new(),
            unsynced: Vec::new(),
            recovered: Recovered::default(),
            recent_file: Vec::new(),
            saving: None,
            last_session: Epoch(0),
            members,
            skew: Duration::ZERO,
            full_until: Duration::ZERO,
            drops_oldest,
            dropped: SeqRanges::new(),
            dropped_chunks: BTreeSet::new(),
            durable_chunks: BTreeSet::new(),
        }
    }
}

impl World {
    /// A message of a sender: one chunk, or several of one tag that were packed.
    pub(crate) fn take_chunks(&mut self, edge: usize, chunks: &[usize]) {
        let full = self.now < self.edges[edge].full_until;
        let state = &mut self.edges[edge];
        let Some(recent) = &mut state.recent else { return };
        let prints: Vec<_> = chunks.iter().map(|&chunk| fingerprint(chunk)).collect();
        let claims = recent.claim(&prints);
        let (mut mine, mut known) = (Vec::new(), Vec::new());
        for (claim, &chunk) in claims.iter().zip(chunks) {
            match claim {
                Claim::Mine => mine.push(chunk),
                Claim::Stored(_) => known.push(chunk),
                Claim::Pending => state.pending.push(chunk),
                Claim::Twice => {}
            }
        }
        let refused = !mine.is_empty() && (full || !self.make_room(edge));
        let state = &mut self.edges[edge];
        if refused {
            // The sender is not told, and tries again.
            let prints: Vec<_> = mine.iter().map(|&chunk| fingerprint(chunk)).collect();
            state.recent.as_mut().unwrap().release(&prints);
            mine.clear();
        }
        if !mine.is_empty() {
            let (seq, life) = (state.log.len() as u64, state.life);
            state.log.push(Batch { tag: self.chunks[mine[0]].tag, chunks: mine.clone() });
            state.waiting.push((seq, mine.clone()));
            self.travel((edge, usize::MAX, 4), Event::LogSynced { edge, life, end: seq + 1 });
            if self.plant == Plant::AckBeforeSync {
                mine.iter().for_each(|&chunk| self.acknowledge(edge, chunk));
            }
        }
        self.covered.count("known to the edge", known.len() as u64);
        known.into_iter().for_each(|chunk| self.acknowledge(edge, chunk));
    }

    // Says whether the log may take another batch.
    fn make_room(&mut self, edge: usize) -> bool {
        let state = &mut self.edges[edge];
        let Some((dispatcher, recent)) = state.dispatcher.as_mut().zip(state.recent.as_mut()) else {
            return false;
        };
        let held: Vec<u64> =
            (state.first..state.synced).filter(|&n| !dispatcher.done().contains(Seq(n))).collect();
        if !state.drops_oldest || (held.len() as u64) < QUOTA_BATCHES {
            return true;
        }
        let oldest: SeqRanges = held.iter().take(3).map(|&n| Seq(n)).collect();
        let dropped = dispatcher.drop_batches(&oldest);
        recent.drop_batches(&dropped);
        state.dropped.insert_all(&dropped);
        for seq in dropped.seqs() {
            state.dropped_chunks.extend(&state.log[seq.0 as usize].chunks);
        }
        self.covered.count("dropped by policy", dropped.len());
        true
    }

    pub(crate) fn log_synced(&mut self, edge: usize, life: u32, end: u64) {
        let state = &mut self.edges[edge];
        let Some(recent) = state.recent.as_mut().filter(|_| state.life == life) else { return };
        for batch in &state.log[state.synced as usize..end as usize] {
            state.durable_chunks.extend(&batch.chunks);
        }
        state.synced = end;
        let mut told = Vec::new();
        for (seq, chunks) in state.waiting.extract_if(.., |(seq, _)| *seq < end) {
            let prints: Vec<_> = chunks.iter().map(|&chunk| fingerprint(chunk)).collect();
            recent.stored(Seq(seq), &prints, 0);
            told.extend(chunks);
        }
        let again = std::mem::take(&mut state.pending);
        if self.plant != Plant::AckBeforeSync {
            told.into_iter().for_each(|chunk| self.acknowledge(edge, chunk));
        }
        for chunk in again {
            self.take_chunks(edge, &[chunk]);
        }
    }

    pub(crate) fn tick_edge(&mut self, edge: usize) {
        if self.strikes(0.001) {
            self.covered.count("clock jumps", 1);
            self.edges[edge].skew += ms(self.rng.random_range(500..20_000));
        }
        if self.strikes(0.002) {
            self.covered.count("full disks", 1);
            self.edges[edge].full_until = self.now + ms(self.rng.random_range(100..3_000));
        }
        let now = self.now + self.edges[edge].skew;
        let state = &mut self.edges[edge];
        let Some((dispatcher, recent)) = state.dispatcher.as_mut().zip(state.recent.as_mut()) else { return };
        dispatcher.tick(now);
        for _ in 0..self.rng.random_range(0..=2) {
            if state.offered < state.synced && dispatcher.wants_more() {
                let batch = &state.log[state.offered as usize];
                let prints: Vec<_> = batch.chunks.iter().map(|&chunk| fingerprint(chunk)).collect();
                recent.note(Seq(state.offered), &prints, 0);
                let bytes = 100 * batch.chunks.len() as u64;
                dispatcher.offer(Seq(state.offered), batch.tag.to_string().into(), bytes, &prints);
                state.offered += 1;
            }
        }
        if self.rng.random_bool(0.1) {
            self.save_recent(edge);
        }
        if self.rng.random_bool(0.1) {
            self.trim(edge);
        }
    }

    fn save_recent(&mut self, edge: usize) {
        if self.plant == Plant::TrimBeforeSaved {
            return;
        }
        let state = &mut self.edges[edge];
        let Some(recent) = state.recent.as_mut().filter(|_| state.saving.is_none()) else { return };
        let records: Vec<Bytes> = recent.unsaved().iter().map(RecentRecord::encode).collect();
        if !records.is_empty() {
            state.saving = Some(records);
            let life = state.life;
            self.later(400, Event::RecentSaved { edge, life });
        }
    }

    pub(crate) fn recent_saved(&mut self, edge: usize, life: u32) {
        let rewrite = self.rng.random_bool(0.2);
        let state = &mut self.edges[edge];
        let Some(recent) = state.recent.as_mut().filter(|_| state.life == life) else { return };
        state.recent_file.extend(state.saving.take().into_iter().flatten());
        if rewrite {
            state.recent_file = recent.snapshot().iter().map(RecentRecord::encode).collect();
        }
        recent.saved();
    }

    fn trim(&mut self, edge: usize) {
        let state = &mut self.edges[edge];
        let Some((dispatcher, recent)) = state.dispatcher.as_ref().zip(state.recent.as_ref()) else { return };
        let trimmable = match self.plant {
            Plant::TrimBeforeSaved => dispatcher.done().clone(),
            _ => recent.trimmable(dispatcher.done()),
        };
        let end = trimmable.first_gap(Seq(state.first)).0.min(state.synced);
        let trimmed = std::mem::replace(&mut state.first, end)..end;
        self.look_at_trimmed(edge, trimmed);
    }

    fn look_at_trimmed(&mut self, edge: usize, trimmed: std::ops::Range<u64>) {
        for seq in trimmed {
            let chunks = self.edges[edge].log[seq as usize].chunks.clone();
            let dropped = self.edges[edge].dropped.contains(Seq(seq));
            let stored = dropped || chunks.iter().all(|&chunk| self.is_stored(chunk));
            self.uphold(Rule::TrimmedIsStored, stored, (edge, seq));
        }
    }

    pub(crate) fn crash_edge(&mut self, edge: usize) {
        self.covered.count("edge crashes", 1);
        (0..self.sinks.len()).for_each(|sink| self.cut(edge, sink));
        let state = &mut self.edges[edge];
        (state.dispatcher, state.recent) = (None, None);
        (state.waiting, state.pending) = Default::default();
        // A disk may have got some of what nobody waited for, in order.
        let kept = self.rng.random_range(0..=state.unsynced.len());
        let lost = state.unsynced.len() - kept;
        state.unsynced.truncate(kept);
        state.journal.append(&mut state.unsynced);
        let saving = state.saving.take().unwrap_or_default();
        let kept = self.rng.random_range(0..=saving.len());
        let lost = lost + saving.len() - kept;
        state.recent_file.extend(saving.into_iter().take(kept));
        let end = self.rng.random_range(state.synced..=state.log.len() as u64);
        let lost_batches = state.log.len() as u64 - end;
        state.log.truncate(end as usize);
        for batch in &state.log[state.synced as usize..] {
            state.durable_chunks.extend(&batch.chunks);
        }
        state.synced = end;
        self.covered.count("lost records", lost as u64);
        self.covered.count("lost batches", lost_batches);
        self.later(4_000, Event::EdgeStarts(edge));
    }

    pub(crate) fn start_edge(&mut self, edge: usize) {
        let config = DispatcherConfig { waiting_batches_max: 8, ..DispatcherConfig::default() };
        let plant = self.plant;
        let now = self.now + self.edges[edge].skew;
        let state = &mut self.edges[edge];
        let mut recovered = Recovered::default();
        for record in &state.journal {
            recovered.replay(JournalRecord::decode(record).unwrap());
        }
        state.recovered = recovered.clone();
        if plant == Plant::ForgetPromiseOnRestart {
            recovered.promises.clear();
        }
        let records = state.recent_file.iter().map(|record| RecentRecord::decode(record).unwrap());
        let mut recent = Recent::new(RecentBounds::default(), state.log_id.incarnation, records);
        if plant == Plant::ForgetChunksOnRestart {
            recent = Recent::new(RecentBounds::default(), state.log_id.incarnation, []);
            (0..state.synced).for_each(|seq| recent.note(Seq(seq), &[], 0));
        }
        for seq in recent.missing(state.first..state.synced).seqs() {
            let chunks = &state.log[seq.0 as usize].chunks;
            let prints: Vec<_> = chunks.iter().map(|&chunk| fingerprint(chunk)).collect();
            recent.note(seq, &prints, 0);
        }
        let mut dropped = recovered.dropped_below(Seq(state.first));
        recent.drop_batches(&dropped);
        // A drop that the journal does not say, of what the log still has, is none. Of what the log has not, a journal that
        // was written anew says no more than that it is done.
        let mut gone = state.dropped.clone();
        gone.remove_range(state.first..u64::MAX);
        dropped.insert_all(&gone);
        state.dropped_chunks =
            dropped.seqs().flat_map(|seq| state.log[seq.0 as usize].chunks.clone()).collect();
        state.dropped = dropped;
        recovered.done.insert_range(0..state.first);
        (state.life, state.started, state.offered) = (state.life + 1, false, state.first);
        let (log, sinks) = ((*state.log_id).clone(), state.members.clone());
        let placement = Box::new(ByTag(sinks.clone()));
        state.recent = Some(recent);
        state.dispatcher = Some(Dispatcher::new(config, log, sinks, placement, recovered, now));
    }

    pub(crate) fn journal_synced(&mut self, edge: usize, life: u32, records: usize) {
        let state = &mut self.edges[edge];
        let Some(dispatcher) = state.dispatcher.as_mut().filter(|_| state.life == life) else { return };
        for record in state.unsynced.drain(..records) {
            let decoded = JournalRecord::decode(&record).unwrap();
            if self.plant == Plant::SkipEpochRecord && matches!(decoded, JournalRecord::Started { .. }) {
                continue;
            }
            state.recovered.replay(decoded);
            state.journal.push(record);
        }
        state.started = true;
        if self.plant != Plant::PromiseBeforeSync {
            dispatcher.journaled(records);
        }
        // Some time the journal is written anew, as short as it can be.
        if self.rng.random_bool(0.02) && state.unsynced.is_empty() {
            state.journal = dispatcher.snapshot().iter().map(JournalRecord::encode).collect();
        }
    }

    pub(crate) fn pump_edge(&mut self, edge: usize) {
        let mut records = 0;
        while let Some(output) = self.edges[edge].dispatcher.as_mut().and_then(Dispatcher::poll_output) {
            match output {
                DispatcherOutput::Send { sink, session, seq, mut done, recall, .. } => {
                    let sink = self.sink_of(&sink);
                    if self.plant == Plant::HalfDoneWhole {
                        done.clear();
                    }
                    if self.plant == Plant::TrimOnSend {
                        self.look_at_trimmed(edge, seq.0..seq.0 + 1);
                    }
                    self.travel((edge, sink, 1), Event::Batch { edge, sink, session, seq, done, recall });
                }
                DispatcherOutput::Control { sink, session, message } => {
                    let sink = self.sink_of(&sink);
                    self.travel((edge, sink, 0), Event::Control { edge, sink, session, message });
                }
                DispatcherOutput::Recall { sink, session, part, chunks, half_done } => {
                    let state = &mut self.edges[edge];
                    let Some(recent) = state.recent.as_ref() else { continue };
                    let denied = self.plant == Plant::DenyChunks;
                    let find = |chunks: Vec<_>| -> Vec<_> {
                        let seq = |chunk| recent.seq_of(&chunk).filter(|_| !denied);
                        chunks.into_iter().map(|chunk| (chunk, seq(chunk))).collect()
                    };
                    let (chunks, half_done) = (find(chunks), find(half_done));
                    if let Some(dispatcher) = &mut state.dispatcher {
                        dispatcher.recalled(&sink, session, part, &chunks, &half_done);
                    }
                }
                DispatcherOutput::Journal(record) => {
                    let state = &mut self.edges[edge];
                    state.unsynced.push(record.encode());
                    records += 1;
                    if self.plant == Plant::PromiseBeforeSync {
                        state.dispatcher.as_mut().unwrap().journaled(1);
                    }
                }
                DispatcherOutput::Trim => {}
                DispatcherOutput::HangUp { sink } | DispatcherOutput::Gone { sink } => {
                    let sink = self.sink_of(&sink);
                    self.cut(edge, sink);
                }
            }
        }
        if records > 0 {
            // Syncs are in order, each of what came since the last.
            let life = self.edges[edge].life;
            self.travel((edge, usize::MAX, 3), Event::JournalSynced { edge, life, records });
        }
    }
}
