//! A bounded memory of tags already routed.
//!
//! Left out on purpose: sharing. Each connection or thread keeps its own, and no lock is taken.

use std::collections::HashMap;
use std::sync::Arc;

use crate::Router;

/// Longest tag in bytes that a cache keeps; longer ones are routed anew each time. With the capacity it bounds
/// the cache's memory.
pub const CACHED_TAG_BYTES_MAX: usize = 512;

/// Tag → route, for as long as the same [`Router`] is asked.
///
/// A full cache is emptied: the tags in use are back after one look-up each, and a flood of random tags costs
/// no more than routing them.
#[derive(Debug)]
pub struct RouteCache {
    routes: HashMap<Box<str>, Option<usize>>,
    tags_max: usize,
    /// The router that the entries are of.
    router: Option<Arc<()>>,
}

impl RouteCache {
    /// A cache for up to `cap` tags; with 0 it keeps none.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        Self { routes: HashMap::new(), tags_max: cap, router: None }
    }

    /// What [`Router::route`] answers. Asked with another router than last time, the cache starts afresh.
    pub fn route(&mut self, router: &Router, tag: &str) -> Option<usize> {
        if !self.router.as_ref().is_some_and(|known| Arc::ptr_eq(known, &router.identity)) {
            self.routes.clear();
            self.router = Some(Arc::clone(&router.identity));
        }
        if let Some(&route) = self.routes.get(tag) {
            return route;
        }
        let route = router.route(tag);
        if tag.len() <= CACHED_TAG_BYTES_MAX && self.tags_max > 0 {
            if self.routes.len() >= self.tags_max {
                self.routes.clear();
            }
            self.routes.insert(tag.into(), route);
        }
        route
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(patterns: &[&str]) -> Router {
        Router::new(patterns.iter().map(|text| ((*text).to_owned(), vec![])).collect()).unwrap()
    }

    #[test]
    fn random_tags_do_not_grow_it() {
        let router = router(&["a.**", "b.*"]);
        let mut cache = RouteCache::new(8192);
        for i in 0..100_000 {
            assert_eq!(cache.route(&router, &format!("b.{i}")), Some(1));
            assert!(cache.routes.len() <= 8192);
        }
        assert!(cache.routes.capacity() <= 4 * 8192, "{}", cache.routes.capacity());
    }

    #[test]
    fn hits_misses_and_long_tags_answer_alike() {
        let router = router(&["a.**", "b.*"]);
        let long = format!("a.{}", "x".repeat(CACHED_TAG_BYTES_MAX));
        for cap in [0, 1, 8192] {
            let mut cache = RouteCache::new(cap);
            for _ in 0..2 {
                assert_eq!(cache.route(&router, "b.c"), Some(1));
                assert_eq!(cache.route(&router, "c"), None);
                assert_eq!(cache.route(&router, &long), Some(0));
            }
            assert_eq!(cache.routes.len(), cap.min(2));
        }
    }

    #[test]
    fn another_router_is_asked_anew() {
        let (old, new) = (router(&["a", "b"]), router(&["b", "a"]));
        let mut cache = RouteCache::new(8);
        assert_eq!(cache.route(&old, "a"), Some(0));
        assert_eq!(cache.route(&new, "a"), Some(1));
        assert_eq!(cache.route(&new.clone(), "a"), Some(1));
        assert_eq!(cache.routes.len(), 1);
    }
}
