//! Chaos: rounds of load and drawn faults on a whole cluster with real stores. After each round, everything that was
//! acknowledged in it is in its store, once.
//!
//! [`faults`] says what can go wrong and draws it from a seed; [`bench`] is the cluster, does it and undoes it. In CI a few
//! rounds run; `tests/chaos` runs as many as one likes, and repeats one by its seed.

mod bench;
mod faults;

use std::time::Instant;

use anyhow::{Context, ensure};
use weir_tests::{Verdict, chance, first_seed, in_own_world, rounds, say};

use crate::bench::{Bench, Stores};

/// In CI.
const ROUNDS: u64 = 3;

fn run(test: &str, stores: Stores, command: &str) {
    in_own_world(test, |scratch| {
        let mut bench = Bench::start(scratch, stores)?;
        let (rounds, first) = (rounds(ROUNDS), first_seed());
        let began = Instant::now();
        let mut total = Verdict::default();
        for seed in first..first + rounds {
            let plan = faults::draw(&mut chance(seed), stores);
            let began = Instant::now();
            let repeat = || {
                let faults: Vec<_> = plan.iter().map(ToString::to_string).collect();
                format!(
                    "after {}\nto repeat: tests/chaos --rounds 1 --seed {seed} {command}",
                    faults.join("; ")
                )
            };
            let verdict = bench.round(seed, &plan).with_context(repeat)?;
            let faults: Vec<_> = plan.iter().map(ToString::to_string).collect();
            say(&format!(
                "seed {seed}: {} [{:.1} s] {verdict}",
                faults.join("; "),
                began.elapsed().as_secs_f64()
            ));
            ensure!(verdict.is_sound(), "{verdict} {}", repeat());
            total += verdict;
        }
        say(&format!(
            "{rounds} rounds, seeds from {first}, in {:.0} s: {total}",
            began.elapsed().as_secs_f64()
        ));
        let all = bench.verdict_over_all()?;
        say(&format!("all rounds together: {all}"));
        ensure!(all.is_sound(), "something came late: {all}");
        bench.stop()
    });
}

#[test]
#[ignore = "a part of what `chaos_with_all_stores` does, quicker; run it by `tests/chaos files`"]
fn chaos_with_files() {
    run("chaos_with_files", Stores { kafka: false, hdfs: false }, "files");
}

#[test]
fn chaos_with_all_stores() {
    run("chaos_with_all_stores", Stores { kafka: true, hdfs: true }, "all");
}
