//! Which receiver is next: by weight among those that work, standby ones only if there is no other. Pure.

use crate::Server;

/// The receivers, and how they do.
#[derive(Debug)]
pub(crate) struct Balance {
    servers: Vec<State>,
}

#[derive(Debug)]
struct State {
    weight: i64,
    standby: bool,
    failed: bool,
    /// Smooth weighted round robin: it grows by the weight each time, and the chosen one pays the sum.
    credit: i64,
}

impl Balance {
    pub(crate) fn new(servers: &[Server]) -> Self {
        let state = |server: &Server| State {
            weight: i64::from(server.weight.max(1)),
            standby: server.standby,
            failed: false,
            credit: 0,
        };
        Self { servers: servers.iter().map(state).collect() }
    }

    /// The next, leaving out those that were tried already; none if nobody is left. Failed ones are tried last.
    pub(crate) fn next(&mut self, tried: &[usize]) -> Option<usize> {
        for (failed, standby) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut fit: Vec<(usize, &mut State)> = self
                .servers
                .iter_mut()
                .enumerate()
                .filter(|(index, state)| {
                    state.failed == failed && state.standby == standby && !tried.contains(index)
                })
                .collect();
            let sum: i64 = fit.iter().map(|(_, state)| state.weight).sum();
            fit.iter_mut().for_each(|(_, state)| state.credit += state.weight);
            if let Some((index, state)) =
                fit.into_iter().max_by_key(|(index, state)| (state.credit, -(*index as i64)))
            {
                state.credit -= sum;
                return Some(index);
            }
        }
        None
    }

    /// Takes note of how one does; says whether that is new.
    pub(crate) fn set_failed(&mut self, index: usize, failed: bool) -> bool {
        self.servers
            .get_mut(index)
            .is_some_and(|state| std::mem::replace(&mut state.failed, failed) != failed)
    }

    /// Those that do not work.
    pub(crate) fn failed(&self) -> Vec<usize> {
        (0..self.servers.len()).filter(|&index| self.servers[index].failed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance(servers: &[(u32, bool)]) -> Balance {
        let server = |&(weight, standby): &(u32, bool)| Server { address: String::new(), weight, standby };
        Balance::new(&servers.iter().map(server).collect::<Vec<_>>())
    }

    fn picks(balance: &mut Balance, count: usize) -> Vec<usize> {
        (0..count).filter_map(|_| balance.next(&[])).collect()
    }

    #[test]
    fn weights_are_kept_and_mixed() {
        let mut three = balance(&[(5, false), (1, false), (1, false)]);
        assert_eq!(picks(&mut three, 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn standby_ones_wait_until_all_others_fail() {
        let mut three = balance(&[(1, false), (1, false), (1, true)]);
        assert!(!picks(&mut three, 10).contains(&2));
        assert!(three.set_failed(0, true) && !three.set_failed(0, true));
        assert_eq!(picks(&mut three, 3), [1, 1, 1]);
        three.set_failed(1, true);
        assert_eq!(picks(&mut three, 3), [2, 2, 2]);
        assert_eq!(three.failed(), [0, 1]);
        three.set_failed(0, false);
        assert_eq!(picks(&mut three, 2), [0, 0]);
    }

    #[test]
    fn in_one_round_each_is_tried_once_and_failed_ones_last() {
        let mut three = balance(&[(1, false), (1, false), (1, true)]);
        three.set_failed(0, true);
        let mut tried = Vec::new();
        while let Some(next) = three.next(&tried) {
            tried.push(next);
        }
        assert_eq!(tried, [1, 2, 0]);
    }
}
