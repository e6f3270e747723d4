//! When a lost agent tries again: soon when it is alone, spread out when all are lost at once.

use std::time::Duration;

/// The longest wait between two tries.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// The longest spread that a controller may ask for.
const SPREAD_MAX: Duration = Duration::from_secs(300);

/// The first tries of an agent that has never met a controller come within this.
const SPREAD_DEFAULT: Duration = Duration::from_secs(1);

/// The tries of one agent.
#[derive(Debug, Clone)]
pub struct Comeback {
    spread: Duration,
    failures: u32,
}

impl Default for Comeback {
    fn default() -> Self {
        Self { spread: SPREAD_DEFAULT, failures: 0 }
    }
}

impl Comeback {
    /// The controller said within which time its agents should come back.
    pub fn set_spread(&mut self, spread: Duration) {
        self.spread = spread.clamp(Duration::from_millis(50), SPREAD_MAX);
    }

    /// A controller took us.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// No controller did.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// How long to wait before the next try. `chance` is from 0 to 1, and each agent's own.
    ///
    /// The first tries are spread over what the controller asked for; each failure doubles the bound, up to
    /// [`WAIT_MAX`] or the spread, whichever is longer.
    #[must_use]
    pub fn wait(&self, chance: f64) -> Duration {
        let doubled = self.spread.saturating_mul(1 << self.failures.min(16));
        doubled.min(WAIT_MAX.max(self.spread)).mul_f64(chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn waits_double_up_to_a_bound() {
        let mut comeback = Comeback::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            waits.push(comeback.wait(1.0).as_secs());
            comeback.failed();
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        comeback.succeeded();
        assert_eq!(comeback.wait(1.0), Duration::from_secs(1));
        comeback.set_spread(Duration::from_secs(100));
        assert_eq!(comeback.wait(0.5), Duration::from_secs(50));
        comeback.set_spread(Duration::MAX);
        comeback.failed();
        assert_eq!(comeback.wait(1.0), SPREAD_MAX);
        assert_eq!(comeback.wait(f64::NAN.max(0.0)), Duration::ZERO);
    }

    /// 5 000 agents lose their controller at once; it is away for two minutes, then takes 300 in a second.
    #[test]
    fn five_thousand_come_back_without_a_crowd() {
        const AGENTS: usize = 5000;
        const TAKES_PER_SECOND: usize = 300;
        for seed in 0..5 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut agents: Vec<(Duration, Comeback)> = (0..AGENTS)
                .map(|_| {
                    let mut comeback = Comeback::default();
                    // As a controller of that many sets it.
                    comeback.set_spread(Duration::from_secs(25));
                    (comeback.wait(rng.random()), comeback)
                })
                .collect();
            let (back, mut second, mut most, mut tries_away) = (120, 0u64, 0, 0);
            while !agents.is_empty() {
                let now = Duration::from_secs(second + 1);
                let (mut tried, mut left) = (0, Vec::new());
                for (at, mut comeback) in agents {
                    if at >= now {
                        left.push((at, comeback));
                        continue;
                    }
                    tried += 1;
                    if second >= back && tried <= TAKES_PER_SECOND {
                        continue;
                    }
                    comeback.failed();
                    left.push((now + comeback.wait(rng.random()), comeback));
                }
                if second >= back {
                    most = most.max(tried);
                } else {
                    tries_away += tried;
                }
                agents = left;
                second += 1;
            }
            assert!(most <= 2 * TAKES_PER_SECOND, "seed {seed}: {most} tries in a second");
            assert!(tries_away <= 6 * AGENTS, "seed {seed}: {tries_away} tries in vain");
            assert!(second <= back + 120, "seed {seed}: all are back after {} s", second - back);
        }
    }
}
