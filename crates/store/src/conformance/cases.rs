//! The cases, each a promise of the traits.

use bytes::Bytes;
use weir_model::{Encoding, PartId};

use super::{
    Sample, Suite, assert_over, assert_resolves, batch, header, incarnation, marker, now_ns, samples,
};
use crate::{Outcome, StoreError, Token};

const HOUR_NS: i64 = 3_600_000_000_000;

pub(super) async fn all(suite: &mut Suite<'_>) {
    a_part_is_stored_whole_and_once(suite).await;
    many_partitions_make_one_part(suite).await;
    the_batches_of_two_edges_make_one_part(suite).await;
    what_is_done_is_left_out(suite).await;
    packed_payloads_are_unpacked(suite).await;
    nanoseconds_and_empty_records_are_kept(suite).await;
    two_hundred_tags_make_one_part(suite).await;
    a_new_life_ends_the_old(suite).await;
    a_life_ends_in_good_order(suite).await;
    strange_tokens_are_refused(suite).await;
    if suite.backend().traits().shared {
        a_part_that_was_resolved_void_never_shows(suite).await;
        a_race_is_settled_one_way(suite).await;
    } else {
        only_its_own_sink_settles_a_part(suite).await;
    }
}

async fn a_part_is_stored_whole_and_once(suite: &mut Suite<'_>) {
    let marker = marker("whole");
    let mut life = suite.begin(&marker).await;
    let events = samples(&marker, &marker, now_ns(), 50);
    let (part, token) = suite.part(&mut life, vec![batch("edge-1", 0, &events, Encoding::Plain)]);

    let committed = life.store.commit(&part).await.expect("a commit");
    assert_eq!((committed.events, committed.dead_letters), (50, 0), "{marker}");
    life.store.commit(&part).await.expect("the same commit again");
    assert_resolves(&*life.store, &part.id, &token, &Outcome::Committed).await;
    assert_resolves(&*life.store, &part.id, &token, &Outcome::Committed).await;
    if suite.backend().traits().shared {
        let other = suite.begin(&format!("{marker}-b")).await;
        assert_resolves(&*other.store, &part.id, &token, &Outcome::Committed).await;
        other.store.end().await;
    }
    suite.shows(&marker, events).await;
    life.store.end().await;
}

async fn many_partitions_make_one_part(suite: &mut Suite<'_>) {
    let marker = marker("many");
    let mut life = suite.begin(&marker).await;
    let mut events = Vec::new();
    let mut batches = Vec::new();
    for (seq, tag) in ["a", "b", "c"].into_iter().enumerate() {
        let tag = format!("{marker}.{tag}");
        let mut of_batch = samples(&tag, &marker, now_ns(), 3);
        of_batch.extend(samples(&tag, &marker, now_ns() - HOUR_NS, 3));
        batches.push(batch("edge-1", seq as u64, &of_batch, Encoding::Plain));
        events.extend(of_batch);
    }
    let (part, token) = suite.part(&mut life, batches);
    life.store.commit(&part).await.expect("a commit");
    life.store.commit(&part).await.expect("the same commit again");
    assert_resolves(&*life.store, &part.id, &token, &Outcome::Committed).await;
    suite.shows(&marker, events).await;
    life.store.end().await;
}

async fn the_batches_of_two_edges_make_one_part(suite: &mut Suite<'_>) {
    let marker = marker("edges");
    let mut life = suite.begin(&marker).await;
    let mut events = Vec::new();
    let mut batches = Vec::new();
    for edge in ["edge-1", "edge-2"] {
        for seq in 0..2 {
            let of_batch = samples(&marker, &format!("{marker} {edge} {seq}"), now_ns(), 5);
            batches.push(batch(edge, seq, &of_batch, Encoding::Plain));
            events.extend(of_batch);
        }
    }
    let (part, _) = suite.part(&mut life, batches);
    life.store.commit(&part).await.expect("a commit");
    suite.shows(&marker, events).await;
    life.store.end().await;
}

async fn what_is_done_is_left_out(suite: &mut Suite<'_>) {
    let marker = marker("done");
    let mut life = suite.begin(&marker).await;
    let old = samples(&marker, &format!("{marker} old"), now_ns() - HOUR_NS, 4);
    let new = samples(&marker, &format!("{marker} new"), now_ns(), 4);
    let partitions = |events: &[Sample]| suite.backend().partitions(&header(events, Encoding::Plain));
    let done = partitions(&old);
    // Two batches: one of which all is done where the store does not partition by time, one of another tag.
    let other = samples(&format!("{marker}.other"), &format!("{marker} other"), now_ns(), 4);
    let rest: Vec<Sample> = [&new, &other]
        .into_iter()
        .filter(|events| !partitions(events).iter().all(|partition| done.contains(partition)))
        .flat_map(|events| events.iter().cloned())
        .collect();
    let mut both = batch("edge-1", 0, &[old, new].concat(), Encoding::Plain);
    let mut alone = batch("edge-1", 1, &other, Encoding::Plain);
    both.done.clone_from(&done);
    // A store of one partition keeps no batch here: then there is nothing to tell apart.
    if partitions(&other) == done {
        alone.done = done;
    }
    let (part, token) = suite.part(&mut life, vec![both.clone(), alone]);
    let committed = life.store.commit(&part).await.expect("a commit");
    assert_eq!(committed.events, rest.len() as u64, "{marker}");
    assert_resolves(&*life.store, &part.id, &token, &Outcome::Committed).await;

    // A part may name partitions of which nothing is left to store: it is no less committed.
    let (mut empty, _) = suite.part(&mut life, vec![both]);
    empty.partitions = suite.backend().partitions(&empty.batches[0].header);
    empty.batches[0].done.clone_from(&empty.partitions);
    let token = life.store.token(&empty.id, &empty.partitions);
    let committed = life.store.commit(&empty).await.expect("a commit of nothing");
    assert_eq!(committed.events, 0, "{marker}");
    assert_resolves(&*life.store, &empty.id, &token, &Outcome::Committed).await;
    suite.shows(&marker, rest).await;
    life.store.end().await;
}

async fn packed_payloads_are_unpacked(suite: &mut Suite<'_>) {
    let marker = marker("packed");
    let mut life = suite.begin(&marker).await;
    let gzip = samples(&marker, &format!("{marker} gzip"), now_ns(), 20);
    let zstd = samples(&marker, &format!("{marker} zstd"), now_ns(), 20);
    let batches = vec![batch("edge-1", 0, &gzip, Encoding::Gzip), batch("edge-1", 1, &zstd, Encoding::Zstd)];
    let (part, _) = suite.part(&mut life, batches);
    life.store.commit(&part).await.expect("a commit");
    suite.shows(&marker, [gzip, zstd].concat()).await;
    life.store.end().await;
}

async fn nanoseconds_and_empty_records_are_kept(suite: &mut Suite<'_>) {
    let marker = marker("exact");
    let mut life = suite.begin(&marker).await;
    let second = now_ns() / 1_000_000_000 * 1_000_000_000;
    let sample = |ns: i64, text: Option<&str>| Sample {
        tag: marker.as_str().into(),
        time_ns: second + ns,
        text: text.map(str::to_owned),
    };
    let events = vec![
        sample(0, Some("whole second")),
        sample(1, Some("quotes \" and \\, a line\nbreak, \u{1f40c}")),
        sample(120_000_000, Some("")),
        sample(999_999_999, None),
    ];
    let (part, _) = suite.part(&mut life, vec![batch("edge-1", 0, &events, Encoding::Plain)]);
    life.store.commit(&part).await.expect("a commit");
    suite.shows(&marker, events).await;
    life.store.end().await;
}

async fn two_hundred_tags_make_one_part(suite: &mut Suite<'_>) {
    let marker = marker("tags");
    let mut life = suite.begin(&marker).await;
    let tags: Vec<Vec<Sample>> =
        (0..200).map(|n| samples(&format!("{marker}.{n}"), &marker, now_ns(), 1)).collect();
    let batches =
        tags.iter().zip(0..).map(|(events, seq)| batch("edge-1", seq, events, Encoding::Plain)).collect();
    let (part, token) = suite.part(&mut life, batches);
    assert!(part.partitions.len() <= suite.backend().traits().partitions_max, "200 tags fit into a part");
    life.store.commit(&part).await.expect("a commit");
    assert_resolves(&*life.store, &part.id, &token, &Outcome::Committed).await;
    suite.shows(&marker, tags.concat()).await;
    life.store.end().await;
}

async fn a_new_life_ends_the_old(suite: &mut Suite<'_>) {
    let marker = marker("lives");
    let mut old = suite.begin(&marker).await;
    let first = samples(&marker, &format!("{marker} first"), now_ns(), 3);
    let late = samples(&marker, &format!("{marker} late"), now_ns(), 3);
    let second = samples(&marker, &format!("{marker} second"), now_ns(), 3);
    let (part_1, token_1) = suite.part(&mut old, vec![batch("edge-1", 0, &first, Encoding::Plain)]);
    let (part_2, token_2) = suite.part(&mut old, vec![batch("edge-1", 1, &late, Encoding::Plain)]);
    old.store.commit(&part_1).await.expect("a commit");

    let mut new = suite.begin(&marker).await;
    assert_over(old.store.commit(&part_2).await, &marker);
    assert_resolves(&*new.store, &part_2.id, &token_2, &Outcome::Void).await;
    assert_over(old.store.commit(&part_2).await, &marker);
    assert_resolves(&*new.store, &part_1.id, &token_1, &Outcome::Committed).await;
    // Settling the old life's parts has not harmed the new one.
    let (part_3, _) = suite.part(&mut new, vec![batch("edge-1", 1, &second, Encoding::Plain)]);
    new.store.commit(&part_3).await.expect("a commit of the new life");
    suite.shows(&marker, [first, second].concat()).await;
    new.store.end().await;
}

async fn a_life_ends_in_good_order(suite: &mut Suite<'_>) {
    let marker = marker("end");
    let mut old = suite.begin(&marker).await;
    let events = samples(&marker, &marker, now_ns(), 3);
    let (part, token) = suite.part(&mut old, vec![batch("edge-1", 0, &events, Encoding::Plain)]);
    let (never, never_token) = suite.part(&mut old, vec![batch("edge-1", 1, &events, Encoding::Plain)]);
    old.store.commit(&part).await.expect("a commit");
    old.store.end().await;
    assert_over(old.store.commit(&never).await, &marker);

    let new = suite.begin(&marker).await;
    assert_resolves(&*new.store, &part.id, &token, &Outcome::Committed).await;
    assert_resolves(&*new.store, &never.id, &never_token, &Outcome::Void).await;
    suite.shows(&marker, events).await;
    new.store.end().await;
}

async fn strange_tokens_are_refused(suite: &mut Suite<'_>) {
    let marker = marker("token");
    let life = suite.begin(&marker).await;
    let id = PartId { sink: life.sink.clone(), incarnation: incarnation(), number: 0 };
    for strange in [&b""[..], b"\0", b"not a token of any store"] {
        let answer = life.store.resolve(&id, &Token(Bytes::from_static(strange))).await;
        assert!(matches!(answer, Err(StoreError::Token { .. })), "{strange:?}: {answer:?}");
    }
    life.store.end().await;
}

async fn a_part_that_was_resolved_void_never_shows(suite: &mut Suite<'_>) {
    let marker = marker("void");
    let mut dead = suite.begin(&format!("{marker}-a")).await;
    let mut heir = suite.begin(&format!("{marker}-b")).await;
    let events = samples(&marker, &marker, now_ns(), 3);
    let batches = vec![batch("edge-1", 0, &events, Encoding::Plain)];
    let (part, token) = suite.part(&mut dead, batches.clone());

    assert_resolves(&*heir.store, &part.id, &token, &Outcome::Void).await;
    assert_over(dead.store.commit(&part).await, &marker);
    assert_resolves(&*heir.store, &part.id, &token, &Outcome::Void).await;
    let (again, _) = suite.part(&mut heir, batches);
    heir.store.commit(&again).await.expect("a commit of the same batches by another sink");
    assert_over(dead.store.commit(&part).await, &marker);
    suite.shows(&marker, events).await;
    heir.store.end().await;
}

async fn a_race_is_settled_one_way(suite: &mut Suite<'_>) {
    for round in 0..4 {
        let marker = marker("race");
        let mut slow = suite.begin(&format!("{marker}-a")).await;
        let mut heir = suite.begin(&format!("{marker}-b")).await;
        let mut events = Vec::new();
        let mut batches = Vec::new();
        for (seq, tag) in ["a", "b", "c"].into_iter().enumerate() {
            let of_batch = samples(&format!("{marker}.{tag}"), &marker, now_ns(), 20);
            batches.push(batch("edge-1", seq as u64, &of_batch, Encoding::Plain));
            events.extend(of_batch);
        }
        let (part, token) = suite.part(&mut slow, batches.clone());
        let (committed, outcome) =
            tokio::join!(slow.store.commit(&part), heir.store.resolve(&part.id, &token));
        let outcome = outcome.expect("an answer");
        if committed.is_ok() {
            assert_eq!(outcome, Outcome::Committed, "{marker}, round {round}: the commit succeeded");
        }
        assert_resolves(&*heir.store, &part.id, &token, &outcome).await;
        // What is not in the store yet is stored by the heir: afterwards all is there, once.
        let done = match outcome {
            Outcome::Committed => part.partitions,
            Outcome::Partial(done) => done,
            Outcome::Void => Vec::new(),
        };
        for batch in &mut batches {
            batch.done.clone_from(&done);
        }
        let (rest, _) = suite.part(&mut heir, batches);
        if !rest.partitions.is_empty() {
            heir.store.commit(&rest).await.expect("a commit of the rest");
        }
        suite.shows(&marker, events).await;
        heir.store.end().await;
    }
}

async fn only_its_own_sink_settles_a_part(suite: &mut Suite<'_>) {
    let marker = marker("alone");
    let mut away = suite.begin(&format!("{marker}-a")).await;
    let other = suite.begin(&format!("{marker}-b")).await;
    let events = samples(&marker, &marker, now_ns(), 3);
    let (part, token) = suite.part(&mut away, vec![batch("edge-1", 0, &events, Encoding::Plain)]);
    let answer = other.store.resolve(&part.id, &token).await;
    assert!(matches!(answer, Err(StoreError::NotHere { .. })), "{marker}: {answer:?}");
    // Nobody's business, so nothing happened to it.
    away.store.commit(&part).await.expect("a commit");
    suite.shows(&marker, events).await;
    away.store.end().await;
    other.store.end().await;
}
