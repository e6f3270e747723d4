//! Chance that can be repeated: every draw follows from a seed that was printed.

use rand::SeedableRng;
use rand::rngs::SmallRng;

/// The number in this variable of the environment, or another.
///
/// # Panics
/// If the variable holds no number.
#[must_use]
pub fn number(variable: &str, otherwise: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// How many rounds a test of chance has: `WEIR_TEST_ROUNDS`, or so many.
#[must_use]
pub fn rounds(otherwise: u64) -> u64 {
    number("WEIR_TEST_ROUNDS", otherwise)
}

/// The seed of the first round, `WEIR_TEST_SEED`, or any. The others follow it: each round can be repeated alone.
#[must_use]
pub fn first_seed() -> u64 {
    number("WEIR_TEST_SEED", u64::from(rand::random::<u32>()))
}

/// The chance of one round.
#[must_use]
pub fn chance(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}
