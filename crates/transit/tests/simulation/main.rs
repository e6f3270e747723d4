//! Drives the real [`Dispatcher`](weir_transit::Dispatcher), [`Collector`](weir_transit::Collector) and
//! [`Recent`](weir_transit::Recent) through seeded disorder, with senders before them and a store behind them.
//!
//! Senders lose patience and send a chunk again, through any edge. Edges and sinks crash at any step, and disks keep any
//! prefix of what was not synced; connections break, disks are full, clocks jump, commits land late, in part, or
//! after their sink's death; sinks drain, leave the group and come back. After each step the rules (`rules.rs`) are
//! checked by name; in the end everything heals, and every chunk must be stored exactly once.
//!
//! ```text
//! WEIR_SIM_SEEDS=100000 cargo test --release -p weir-transit --test simulation -- --nocapture
//! WEIR_SIM_SEED=4711 cargo test --release -p weir-transit --test simulation -- --nocapture one_seed
//! ```
//!
//! The first prints what the seeds covered, the second tells one seed's story. Read on in `world.rs`. Left out on purpose:
//! what the spool, the link and the stores have tests of their own for.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod edge;
mod plant;
mod rules;
mod sender;
mod sink;
mod store;
mod world;

use crate::plant::Plant;
use crate::rules::Coverage;
use crate::world::World;

fn seeds(default: u64) -> u64 {
    std::env::var("WEIR_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_chunk_is_stored_exactly_once_through_disorder() {
    let mut covered = Coverage::default();
    for seed in 0..seeds(2_000) {
        let world = World::new(seed, Plant::Nothing).run();
        let world = world.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        covered.add(&world.covered);
    }
    println!("{} seeds: {covered}", seeds(2_000));
    let missing = covered.missing();
    assert!(missing.is_empty(), "the disorder has no teeth: no {missing:?}");
}

#[test]
fn one_seed() {
    let Some(seed) = std::env::var("WEIR_SIM_SEED").ok().and_then(|text| text.parse().ok()) else { return };
    let mut world = World::new(seed, Plant::Nothing);
    world.telling = true;
    match world.run() {
        Ok(world) => println!("seed {seed} holds: {}", world.covered),
        Err(broken) => panic!("seed {seed}: {broken}"),
    }
}

#[test]
fn seed_14212_a_batch_taken_back_and_given_again_in_one_session_crosses_with_a_refusal() {
    World::new(14212, Plant::Nothing).run().map(drop).unwrap();
}

#[test]
fn seed_1_an_edge_that_comes_after_the_wait_is_asked_before_the_commit() {
    World::new(1, Plant::Nothing).run().map(drop).unwrap();
}

#[test]
fn the_same_seed_is_the_same_story() {
    let story = |seed| World::new(seed, Plant::Nothing).run().map(|world| world.covered.to_string());
    for seed in [0, 1, 77] {
        assert_eq!(story(seed), story(seed));
    }
}

#[test]
fn every_planted_fault_is_found() {
    for (plant, rules) in Plant::ALL {
        let breaks = |seed| World::new(seed, *plant).run().err().map(|error| (seed, error));
        let named = |(_, error): &(u64, String)| rules.iter().any(|rule| error.starts_with(rule));
        let found = (0..4_000).filter_map(breaks).find(named);
        let (seed, error) = found.unwrap_or_else(|| panic!("{plant:?} was not found"));
        println!("{plant:?}: seed {seed}: {error}");
    }
}
