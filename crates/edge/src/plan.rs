//! Where batches go: the routes of one revision, with the logs behind them.
//!
//! A connection reads the present plan once for each batch, so that a batch is routed by one revision as a whole.

use std::sync::Arc;

use weir_model::GroupId;
use weir_routing::{Router, RouterError};
use weir_spool::GroupLog;
use weir_telemetry::{Counter, names};
use weir_topology::{Overflow, Topology};

use crate::tap::Tap;

/// One revision's routes.
pub(crate) struct Plan {
    pub(crate) router: Router,
    /// Who looks on.
    pub(crate) tap: Arc<Tap>,
    // By route, then by group of the route.
    targets: Vec<Vec<Arc<Target>>>,
}

/// One group's log as the intake sees it.
pub(crate) struct Target {
    pub(crate) group: GroupId,
    pub(crate) log: GroupLog,
    pub(crate) overflow: Overflow,
    pub(crate) events: Counter,
    pub(crate) bytes: Counter,
    /// Held as long as anything may still be appended to the log.
    pub(crate) _in_use: Arc<()>,
}

/// Compiles the routes of a topology.
pub(crate) fn router(topology: &Topology) -> Result<Router, RouterError> {
    Router::new(topology.routes.iter().map(|route| (route.patterns.clone(), route.groups.clone())).collect())
}

impl Plan {
    /// `routes` is how many the router has.
    pub(crate) fn new(router: Router, routes: usize, targets: &[Arc<Target>], tap: Arc<Tap>) -> Self {
        let of_route = |index| {
            let groups = router.groups(index);
            targets.iter().filter(|target| groups.contains(&target.group)).cloned().collect()
        };
        let targets = (0..routes).map(of_route).collect();
        Self { router, tap, targets }
    }

    /// A plan by which no event goes anywhere: before the first revision.
    pub(crate) fn empty() -> Result<Self, RouterError> {
        Ok(Self { router: Router::new(Vec::new())?, tap: Arc::default(), targets: Vec::new() })
    }

    /// The logs of a route.
    pub(crate) fn targets(&self, route: usize) -> &[Arc<Target>] {
        self.targets.get(route).map_or(&[], Vec::as_slice)
    }
}

impl Target {
    pub(crate) fn new(group: GroupId, log: GroupLog, overflow: Overflow, in_use: Arc<()>) -> Self {
        let events = names::EDGE_EVENTS_TOTAL.with([group.as_str()]);
        let bytes = names::EDGE_BYTES_TOTAL.with([group.as_str()]);
        Self { group, log, overflow, events, bytes, _in_use: in_use }
    }
}
