//! The codec against the protocol, case by case: what is stored, what is acknowledged byte for byte, what is counted
//! and what becomes of the connection. Every case is also fed split in two at every offset, and byte by byte.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails, there and then")]

mod bytes;
mod cases;
mod coverage;
mod json;
mod outcome;
mod packing;
mod property;
mod window;

use outcome::{Outcome, feed};

/// One row: what a client sends, and what must come of it.
struct Case {
    name: &'static str,
    input: Vec<u8>,
    expected: Vec<&'static str>,
}

fn case(name: &'static str, input: impl Into<Vec<u8>>, expected: &[&'static str]) -> Case {
    Case { name, input: input.into(), expected: expected.to_vec() }
}

fn check(cases: &[Case]) {
    for Case { name, input, expected } in cases {
        let seen: Vec<String> = feed([&input[..]]).iter().map(Outcome::to_string).collect();
        assert_eq!(seen, *expected, "{name}: in one piece");
        for at in 1..input.len() {
            let seen: Vec<String> =
                feed([&input[..at], &input[at..]]).iter().map(Outcome::to_string).collect();
            assert_eq!(seen, *expected, "{name}: split at {at}");
        }
        let seen: Vec<String> = feed(input.chunks(1)).iter().map(Outcome::to_string).collect();
        assert_eq!(seen, *expected, "{name}: byte by byte");
    }
}

#[test]
fn modes() {
    check(&cases::modes());
}

#[test]
fn entries_and_times() {
    check(&cases::entries());
}

#[test]
fn options_and_acks() {
    check(&cases::options());
}

#[test]
fn compression() {
    check(&cases::compression());
}

#[test]
fn bad_input() {
    check(&cases::bad_input());
}

#[test]
fn json() {
    check(&json::cases());
}
