//! Where batches go: the routes of one revision, with the logs behind them.
//!
//! A connection reads the present plan once for each batch, so that a batch is routed by one revision as a whole.

use std::sync::Arc;

use weir_routing::{Router, RouterError};
use weir_topology::{Route, Topology};

use crate::store::{RouteTarget, Target, of_route};
use crate::tap::Tap;

/// One revision's routes.
pub(crate) struct Plan {
    pub(crate) router: Router,
    /// Who looks on.
    pub(crate) tap: Arc<Tap>,
    // By route, then by group of the route.
    targets: Vec<Arc<[RouteTarget]>>,
}

/// Compiles the routes of a topology.
pub(crate) fn router(topology: &Topology) -> Result<Router, RouterError> {
    Router::new(topology.routes.iter().map(|route| (route.patterns.clone(), route.groups.clone())).collect())
}

impl Plan {
    /// `routes` are those that the router was made from.
    pub(crate) fn new(router: Router, routes: &[Route], targets: &[Arc<Target>], tap: Arc<Tap>) -> Self {
        let targets = routes.iter().map(|route| of_route(&route.groups, route.ack, targets)).collect();
        Self { router, tap, targets }
    }

    /// A plan by which no event goes anywhere: before the first revision.
    pub(crate) fn empty() -> Result<Self, RouterError> {
        Ok(Self { router: Router::new(Vec::new())?, tap: Arc::default(), targets: Vec::new() })
    }

    /// The logs of a route.
    pub(crate) fn targets(&self, route: usize) -> Arc<[RouteTarget]> {
        self.targets.get(route).cloned().unwrap_or_default()
    }
}
