//! Crash consistency, as ALICE does it: every state that the disk went through, and of the operations that were
//! not synced then every prefix and many torn and scattered subsets. Whatever stays, every record that had been
//! answered for is there, whole, under its number, and the log can be written on.

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::JournalFile;
use crate::sim::Keep;

/// What was promised when the disk had gone through so many states.
struct Moment {
    at: usize,
    durable: u64,
    trimmed: SeqRanges,
}

/// A life of a log with everything that writes: groups, rolls, trims, a reopening, a full disk, a failed write.
fn live(disk: &FaultyDisk) -> Vec<Moment> {
    let options = Options { segment_bytes: 700, quota_bytes: 1 << 20, reserve_bytes: 64, ..small() };
    disk.record_history();
    let (mut log, _) = open(disk, options.clone());
    let mut trimmed = SeqRanges::new();
    let mut moments = Vec::new();
    let mut next = 0;
    for step in 0..24u64 {
        if step == 9 || step == 17 {
            // A clean end and a hard one.
            if step == 9 {
                log.close(step).unwrap();
            }
            log = open(disk, options.clone()).0;
        }
        if step == 12 {
            disk.set_capacity(Some(disk.used_bytes() + 30));
            log.append(&[numbered(next, 90)], step).unwrap_err();
            disk.set_capacity(None);
        }
        if step == 14 {
            disk.fail_write_in(0);
            log.append(&[numbered(next, 90)], step).unwrap_err();
        }
        let group: Vec<_> =
            (next..next + 1 + step % 3).map(|n| numbered(n, 20 + 30 * n as usize % 170)).collect();
        next += group.len() as u64;
        log.append(&group, step).unwrap();
        log.sync().unwrap();
        if step % 5 != 3 {
            prepare(&log).unwrap();
        }
        if step % 8 == 7 {
            // Told to the disk later than to the model: a file that goes early may be gone at once.
            trimmed.insert_range(0..next / 2);
            moments.push(Moment { at: disk.moments(), durable: next, trimmed: trimmed.clone() });
            trim(&mut log, &trimmed, step).unwrap();
        }
        moments.push(Moment { at: disk.moments(), durable: next, trimmed: trimmed.clone() });
    }
    moments
}

/// Opens the log on what the crash left; says what is wrong with it.
fn judge(crashed: &FaultyDisk, promised: &Moment) -> Result<(), String> {
    crashed.heal();
    crashed.set_capacity(None);
    let options = Options { segment_bytes: 700, ..small() };
    let opened = Log::open(&Arc::new(crashed.clone()), Path::new(DIR), options, Incarnation(8), 0);
    let (mut log, recovery) = opened.map_err(|error| format!("{error}: {error:?}"))?;
    if promised.durable > 0 && recovery.incarnation != Incarnation(7) {
        return Err("another identity".into());
    }
    if !recovery.damaged.is_empty() || !recovery.set_aside.is_empty() {
        return Err(format!("damage reported where nothing was damaged: {recovery:?}"));
    }
    if recovery.next.0 < promised.durable {
        return Err(format!("ends at {} of {}", recovery.next, promised.durable));
    }
    let (found, damaged) = contents(&log);
    if !damaged.is_empty() {
        return Err(format!("read as damaged: {damaged:?}"));
    }
    for n in (0..promised.durable).filter(|&n| !promised.trimmed.contains(Seq(n))) {
        if !found.contains_key(&n) {
            return Err(format!("{n} is lost"));
        }
    }
    for (&n, (header, payload)) in &found {
        if *header != format!("h{n}") || payload[..8] != n.to_be_bytes() {
            return Err(format!("{n} has become {header:?}"));
        }
    }
    let next = recovery.next.0;
    let grows = log.append(&[numbered(next, 50)], 0).is_ok() && log.sync().is_ok();
    let grown = open(&crashed.after_crash(Keep::Nothing), small()).1.next;
    if !grows || grown != Seq(next + 1) {
        return Err(format!("cannot go on at {next}: {grown}"));
    }
    Ok(())
}

/// Every crash at every state; the first complaint, and how many crashes were tried.
fn try_all(
    disk: &FaultyDisk,
    mut judge: impl FnMut(usize, &FaultyDisk) -> Result<(), String>,
) -> Result<u64, String> {
    let mut tried = 0;
    for (i, state) in disk.history().iter().enumerate() {
        let mut check = |crashed: &FaultyDisk, how: &dyn std::fmt::Debug| {
            tried += 1;
            judge(i + 1, crashed).map_err(|error| format!("state {i}, {how:?}: {error}"))
        };
        let pending = state.pending();
        let all = [Keep::Nothing, Keep::Everything];
        // Torn at every byte in the frames' heads, and at every third elsewhere.
        let torn = pending.iter().enumerate().flat_map(|(operations, &len)| {
            (0..len.max(1))
                .filter(|b| b % 3 == 0 || *b < 50)
                .map(move |bytes| Keep::Prefix { operations, bytes })
        });
        for keep in all.into_iter().chain(torn) {
            check(&state.after_crash(keep), &keep)?;
        }
        for seed in 0..16 {
            let scattered = state.copy();
            scattered.crash(&mut SmallRng::seed_from_u64(seed * 1000 + i as u64));
            check(&scattered, &("scattered", seed))?;
        }
    }
    Ok(tried)
}

#[test]
fn every_crash_keeps_what_was_answered_for() {
    let disk = FaultyDisk::new();
    let moments = live(&disk);
    let tried = try_all(&disk, |at, crashed| {
        let none = Moment { at: 0, durable: 0, trimmed: SeqRanges::new() };
        let mut promised = moments.iter().rev().find(|moment| moment.at <= at).unwrap_or(&none);
        // A trim that is under way may have removed files already.
        let trimming = |next: &&Moment| next.trimmed != promised.trimmed && next.durable == promised.durable;
        if let Some(next) = moments.iter().find(|moment| moment.at > at).filter(trimming) {
            promised = next;
        }
        judge(crashed, promised)
    })
    .unwrap();
    println!("{tried} crashes tried");
    assert!(tried > 5_000, "only {tried} crashes were tried");
}

/// The control: with syncs that do nothing the same check must complain.
#[test]
fn the_check_sees_a_sync_that_does_nothing() {
    let disk = FaultyDisk::new();
    disk.lie_about_syncs();
    let moments = live(&disk);
    let last = moments.last().unwrap();
    let complaint = judge(&disk.after_crash(Keep::Nothing), last).unwrap_err();
    assert!(complaint.contains("identity") || complaint.contains("ends at"), "{complaint}");
}

#[test]
fn every_crash_of_a_journal_keeps_what_was_answered_for() {
    let disk = FaultyDisk::new();
    disk.record_history();
    let bytes = |n: u64| Bytes::from(format!("record {n}"));
    // What must be there from which state on: first and one above the last.
    let mut promised = vec![(0, 0..0)];
    let mut held = 0..0;
    let (mut journal, _) = JournalFile::open(&Arc::new(disk.clone()), Path::new(DIR), "edge", 5, 0).unwrap();
    for step in 0..16u64 {
        if step % 5 == 4 {
            let snapshot: Vec<_> = (held.end - 2..held.end).map(bytes).collect();
            journal.rewrite(&snapshot, step).unwrap();
            held.start = held.end - 2;
        } else {
            journal.append(&[bytes(held.end), bytes(held.end + 1)], step).unwrap();
            held.end += 2;
        }
        if step == 10 {
            drop(journal);
            let opened = JournalFile::open(&Arc::new(disk.clone()), Path::new(DIR), "edge", 6, 0).unwrap();
            assert_eq!(opened.1.records, held.clone().map(bytes).collect::<Vec<_>>());
            journal = opened.0;
        }
        promised.push((disk.moments(), held.clone()));
    }
    try_all(&disk, |at, crashed| {
        let due = &promised.iter().rev().find(|(from, _)| *from <= at).unwrap().1;
        let opened = JournalFile::open(&Arc::new(crashed.clone()), Path::new(DIR), "edge", 6, 0);
        let (_, replay) = opened.map_err(|error| format!("{error:?}"))?;
        let found: Vec<_> = replay.records.iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect();
        // A rewrite that is under way drops old ones; an append under way may add new ones.
        let first = found.first().map_or(0, |text| text[7..].parse().unwrap());
        let whole = found.iter().zip(first..).all(|(text, n)| *text == format!("record {n}"));
        let end = first + found.len() as u64;
        let keeps = end >= due.end && (first <= due.start || first + 2 == end || end - first <= 2);
        if replay.damaged == 0 && whole && keeps { Ok(()) } else { Err(format!("{replay:?} for {due:?}")) }
    })
    .unwrap();
}
