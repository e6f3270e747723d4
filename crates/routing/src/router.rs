//! The ordered routes, indexed so that a tag meets few of them.
//!
//! Left out on purpose: a memory of tags already routed; that is [`RouteCache`](crate::RouteCache).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use weir_model::GroupId;

use crate::pattern::{Pattern, PatternError, Shape};

/// A route that does not compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("route {route}: pattern {pattern:?} is refused")]
pub struct RouterError {
    /// Which route, counted from 0.
    pub route: usize,
    /// Which of its patterns; empty when it has none.
    pub pattern: String,
    /// What is wrong with the pattern.
    pub source: PatternError,
}

/// Compiled routes: the first one with a matching pattern takes a tag.
///
/// Patterns are found by the whole tag parts that they start with, so 10 000 routes for 10 000 applications cost
/// a tag a few look-ups. Only patterns that start with a wildcard or braces are tried on every tag.
#[derive(Debug, Clone)]
pub struct Router {
    routes: Vec<Vec<GroupId>>,
    /// Tag → first route that names exactly it.
    exact: HashMap<Box<str>, usize>,
    /// Whole leading parts → what is known of the tags there and below.
    below: HashMap<Box<str>, Below>,
    /// Longest key of `below` in bytes: longer prefixes of a tag need no look-up, however many dots it has.
    below_bytes_max: usize,
    /// Tells this router from any other; a clone, having the same routes, shares it.
    pub(crate) identity: Arc<()>,
}

#[derive(Debug, Clone, Default)]
struct Below {
    /// First route with the pattern `prefix.**`.
    all: Option<usize>,
    /// The other patterns, by ascending route.
    odd: Vec<(usize, Pattern)>,
}

impl Router {
    /// Compiles routes, each a text of patterns with white space between them and the groups it sends to.
    ///
    /// # Errors
    /// [`RouterError`] names the first pattern that does not parse; a route without any is refused too.
    pub fn new(routes: Vec<(String, Vec<GroupId>)>) -> Result<Self, RouterError> {
        let mut router = Self {
            routes: Vec::with_capacity(routes.len()),
            exact: HashMap::new(),
            below: HashMap::new(),
            below_bytes_max: 0,
            identity: Arc::new(()),
        };
        for (route, (patterns, groups)) in routes.into_iter().enumerate() {
            let refuse = |pattern: &str, source| RouterError { route, pattern: pattern.to_owned(), source };
            if patterns.trim().is_empty() {
                return Err(refuse("", PatternError::Empty));
            }
            for text in patterns.split_whitespace() {
                router.add(route, Pattern::parse(text).map_err(|source| refuse(text, source))?);
            }
            router.routes.push(groups);
        }
        Ok(router)
    }

    /// The first route that takes this tag, counted from 0.
    #[must_use]
    pub fn route(&self, tag: &str) -> Option<usize> {
        self.find(tag, |pattern| pattern.matches(tag))
    }

    /// The groups of a route; none for an index that this router never gave out.
    #[must_use]
    pub fn groups(&self, index: usize) -> &[GroupId] {
        self.routes.get(index).map_or(&[], Vec::as_slice)
    }

    /// The earlier routes that together take every tag of this route, counted from 0; empty when some tag gets to it.
    ///
    /// It judges by samples of each pattern. They miss a route that is hidden by odd means, and blame none that is
    /// reached by tags of usual depth.
    #[must_use]
    pub fn hidden_by(&self, route: usize, patterns: &str) -> Vec<usize> {
        let mut earlier = BTreeSet::new();
        for pattern in patterns.split_whitespace() {
            let samples = Pattern::parse(pattern).map(|pattern| pattern.samples()).unwrap_or_default();
            let takers = samples.iter().map(|tag| self.route(tag).filter(|taker| *taker < route));
            match takers.collect::<Option<Vec<_>>>() {
                Some(takers) if !takers.is_empty() => earlier.extend(takers),
                _ => return Vec::new(),
            }
        }
        earlier.into_iter().collect()
    }

    fn add(&mut self, route: usize, pattern: Pattern) {
        // Routes come in ascending order, so whoever is there already goes first.
        match pattern.shape() {
            Shape::Exact(tag) => {
                self.exact.entry(tag.into()).or_insert(route);
            }
            Shape::Under(prefix) => {
                self.at(prefix).all.get_or_insert(route);
            }
            Shape::Odd(prefix) => {
                let prefix = prefix.to_owned();
                self.at(&prefix).odd.push((route, pattern));
            }
        }
    }

    fn at(&mut self, prefix: &str) -> &mut Below {
        self.below_bytes_max = self.below_bytes_max.max(prefix.len());
        self.below.entry(prefix.into()).or_default()
    }

    /// `matches` is a parameter so that a test can count its calls.
    fn find(&self, tag: &str, mut matches: impl FnMut(&Pattern) -> bool) -> Option<usize> {
        let mut first = self.exact.get(tag).copied().unwrap_or(usize::MAX);
        let ends = tag.match_indices('.').map(|(dot, _)| dot).chain([tag.len()]);
        let prefixes = ends.take_while(|&end| end <= self.below_bytes_max).map(|end| &tag[..end]);
        // Patterns that start with no literal part lie under the empty prefix.
        let prefixes = prefixes.filter(|prefix| !prefix.is_empty()).chain([""]);
        let visited: Vec<&Below> = prefixes.filter_map(|prefix| self.below.get(prefix)).collect();
        // What is certain comes first: an early route spares the trial of later patterns.
        for below in &visited {
            first = first.min(below.all.unwrap_or(usize::MAX));
        }
        for below in visited {
            for (route, pattern) in &below.odd {
                if *route >= first {
                    break;
                }
                if matches(pattern) {
                    first = *route;
                }
            }
        }
        (first != usize::MAX).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(routes: &[&str]) -> Router {
        let group = |route| GroupId::new(&format!("g{route}")).unwrap();
        Router::new(routes.iter().enumerate().map(|(i, text)| ((*text).to_owned(), vec![group(i)])).collect())
            .unwrap()
    }

    #[test]
    fn the_first_matching_route_wins_whatever_its_shape() {
        let routes = ["a.b.c", "*.b.c x.y", "a.**", "a.b.d a.*", "**.z", "c.b.c", "m.{n,o}", "**"];
        let table = [
            ("a.b.c", 0),
            ("q.b.c", 1),
            ("x.y", 1),
            ("c.b.c", 1),
            ("a", 2),
            ("a.b.d", 2),
            ("a.z", 2),
            ("z", 4),
            ("m.z", 4),
            ("m.o", 6),
            ("m.p", 7),
            ("", 7),
            (".b.c", 1),
        ];
        let router = router(&routes);
        for (tag, route) in table {
            assert_eq!(router.route(tag), Some(route), "{tag}");
        }
        assert_eq!(router.groups(2)[0].as_str(), "g2");
        assert!(router.groups(99).is_empty());
    }

    // The index against the plain reading of "first match wins".
    #[test]
    fn the_index_changes_no_answer() {
        let words = ["", "a", "b", "ab", "*", "**", "{a,b.a}", "a*", "{,a}b"];
        let mut texts = Vec::new();
        for (i, x) in words.iter().enumerate() {
            for (j, y) in words.iter().enumerate() {
                let text = format!("{x}.{y}.{}", words[(5 * i + 7 * j) % words.len()]);
                texts.extend([format!("{x}.{y}"), text]);
            }
        }
        let tags: Vec<String> =
            ["", "a", "b", "ab", "a.a", "a.b", "b.a", "ab.b", ".", "a.", ".a", "..", "é.a"]
                .iter()
                .flat_map(|x| ["", ".a", ".b.a", ".ab.ab.b", "."].map(|y| format!("{x}{y}")))
                .collect();
        for start in 0..texts.len() {
            let some: Vec<&str> = (0..12).map(|k| texts[(start + 11 * k) % texts.len()].as_str()).collect();
            let router = router(&some);
            let plain: Vec<Pattern> = some.iter().map(|text| Pattern::parse(text).unwrap()).collect();
            for tag in &tags {
                let expected = plain.iter().position(|pattern| pattern.matches(tag));
                assert_eq!(router.route(tag), expected, "{tag:?} in {some:?}");
            }
        }
    }

    #[test]
    fn ten_thousand_routes_are_not_walked() {
        let texts: Vec<String> = (0..10_000)
            .map(|i| match i % 4 {
                0 => format!("app{i}.web"),
                1 => format!("app{i}.**"),
                2 => format!("app{i}.*.log"),
                _ => format!("team{}.app{i}.{{a,b}}.*", i % 100),
            })
            .chain(["**.error".to_owned(), "**".to_owned()])
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let router = router(&texts);
        let table = [
            ("app9996.web", 9996),
            ("app9997.x.y", 9997),
            ("app9998.x.log", 9998),
            ("team99.app9999.b.x", 9999),
            ("nobody.error", 10_000),
            ("nobody", 10_001),
        ];
        for (tag, route) in table {
            let mut tried = 0;
            let found = router.find(tag, |pattern| {
                tried += 1;
                pattern.matches(tag)
            });
            assert_eq!(found, Some(route), "{tag}");
            assert!(tried <= 3, "{tag} tried {tried} patterns");
        }
    }

    #[test]
    fn a_hidden_route_is_seen() {
        // Routes, and those that hide the last of them.
        let table: &[(&[&str], &[usize])] = &[
            (&["**", "a"], &[0]),
            (&["a.**", "b", "a.b.*"], &[0]),
            (&["a.*", "b.**", "{a.x,b.*.c}"], &[0, 1]),
            (&["a.**", "a.**"], &[0]),
            (&["*.**", "**"], &[0]),
            (&["a.b c", "a.b"], &[0]),
            (&["a", "b", "{a,b}"], &[0, 1]),
            (&["größe.*", "größe.m"], &[0]),
            // Some tag gets to the last of these.
            (&["a.*", "a.**"], &[]),
            (&["a", "a.*", "a.*.*", "a.**"], &[]),
            (&["a.*", "b.*"], &[]),
            (&["a.x", "a.*"], &[]),
            (&["a.*.**", "a.**"], &[]),
            (&["**.x", "**"], &[]),
            (&["a.**", "a**"], &[]),
            (&["a", "{a,b}"], &[]),
            (&["a", "a b"], &[]),
            (&["**"], &[]),
        ];
        for (routes, hidden_by) in table {
            let last = routes.len() - 1;
            assert_eq!(router(routes).hidden_by(last, routes[last]), *hidden_by, "{routes:?}");
        }
        // Too many ways to match: nothing is claimed.
        let many = "{a,b}".repeat(20);
        assert!(router(&["**", &many]).hidden_by(1, &many).is_empty());
    }

    #[test]
    fn a_refusal_names_route_and_pattern() {
        let refuse = |texts: &[&str]| {
            Router::new(texts.iter().map(|text| ((*text).to_owned(), vec![])).collect()).unwrap_err()
        };
        let error = refuse(&["a", "b.* c.{d"]);
        assert_eq!((error.route, error.pattern.as_str()), (1, "c.{d"));
        assert_eq!(error.source, PatternError::Unclosed(2));
        assert_eq!(refuse(&["a", " \t"]).source, PatternError::Empty);
    }
}
