//! Waiting for a state. The one place of the tests that sleeps.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How often [`until`] looks. Short against any state worth waiting for, long against the cost of a look.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks until `look` succeeds, and gives what it found. `what` names the awaited state.
///
/// An error of `look` means "not yet"; say in it what was seen (`ensure!(n == 3, "{n} of 3")`).
///
/// # Errors
/// After `timeout`, with the last thing seen.
pub fn until<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(seen) if start.elapsed() >= timeout => {
                return Err(anyhow!("waited {timeout:?} for {what}; last seen: {seen:#}"));
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn tells_the_last_thing_seen() {
        let mut looks = 0;
        let error = until("the moon", Duration::from_millis(120), || -> Result<()> {
            looks += 1;
            bail!("look {looks}")
        })
        .unwrap_err();
        assert_eq!(error.to_string(), format!("waited 120ms for the moon; last seen: look {looks}"));
        assert!(looks > 1);
    }

    #[test]
    fn gives_what_was_found() {
        let mut looks = 0;
        let found = until("three", Duration::from_secs(9), || {
            looks += 1;
            if looks < 3 { bail!("{looks}") } else { Ok(looks) }
        });
        assert_eq!(found.unwrap(), 3);
    }
}
