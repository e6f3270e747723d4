//! Rates: what each batch and each new connection costs, and what is done beyond a limit. Pure but for locks around
//! small tables; time is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use weir_model::Network;
use weir_routing::Router;
use weir_telemetry::{Counter, names};
use weir_topology::{LimitAction, Per, RateLimit};

use super::bucket::{Bucket, Nanos};
use super::peer::{Peer, Source};

/// Sources, and tags, of which one rule remembers at least so many, and twice as many at most. Who is forgotten begins
/// with a full burst.
const REMEMBERED: usize = 32_768;

/// The limits of one listener, and where they stand.
pub(crate) struct Rules {
    listener: String,
    config: Vec<RateLimit>,
    rules: Vec<Rule>,
}

struct Rule {
    networks: Vec<Network>,
    tags: Option<Router>,
    template: RateLimit,
    state: State,
    hits: Counter,
    dropped: Counter,
}

enum State {
    Listener(Arc<Buckets>),
    Connection,
    Source(Mutex<Generations<Source>>),
    Tag(Mutex<Generations<Arc<str>>>),
}

/// What one thing that is counted has left.
#[derive(Debug)]
struct Buckets {
    bytes: Option<Bucket>,
    events: Option<Bucket>,
    connections: Option<Bucket>,
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is taken, and so is what follows.
    Pass,
    /// It is taken, and nothing follows for so long.
    Slow(Duration),
    /// It is dropped and acknowledged.
    Drop,
    /// It ends its connection.
    Close,
}

impl Rules {
    /// Compiles what the topology says. Patterns are sound there.
    pub(crate) fn new(listener: &str, limits: &[RateLimit]) -> Result<Self, weir_routing::RouterError> {
        let rule = |limit: &RateLimit| {
            let tags = limit.tags.clone().map(|tags| Router::new(vec![(tags, Vec::new())])).transpose()?;
            let labels = [listener, limit.name.as_str()];
            Ok(Rule {
                networks: limit.networks.clone(),
                tags,
                state: match limit.per {
                    Per::Listener => State::Listener(Arc::new(Buckets::new(limit))),
                    Per::Connection => State::Connection,
                    Per::Source => State::Source(Mutex::default()),
                    Per::Tag => State::Tag(Mutex::default()),
                },
                hits: names::FORWARD_LIMITED_TOTAL.with([listener, limit.name.as_str(), word(limit.action)]),
                dropped: names::FORWARD_DROPPED_EVENTS_TOTAL.with(labels),
                template: limit.clone(),
            })
        };
        let rules = limits.iter().map(rule).collect::<Result<_, _>>()?;
        Ok(Self { listener: listener.to_owned(), config: limits.to_vec(), rules })
    }

    /// Whether these are the rules that `limits` describe for `listener`, so that what is taken already still counts.
    pub(crate) fn are(&self, listener: &str, limits: &[RateLimit]) -> bool {
        self.listener == listener && self.config == limits
    }

    /// Takes one new connection; the name of the limit that does not let it in.
    pub(crate) fn connect(&self, now: Nanos, peer: &Peer, source: Source) -> Result<(), &str> {
        for rule in self.rules.iter().filter(|rule| rule.template.connections.is_some() && rule.is_for(peer))
        {
            let buckets = match &rule.state {
                State::Listener(buckets) => buckets.clone(),
                State::Source(table) => rule.find(table, &source),
                State::Connection | State::Tag(_) => continue,
            };
            if buckets.connections.as_ref().is_some_and(|bucket| !bucket.try_take(now, 1)) {
                rule.hits.increment(1);
                return Err(&rule.template.name);
            }
        }
        Ok(())
    }
}

impl Rule {
    fn is_for(&self, peer: &Peer) -> bool {
        self.networks.is_empty()
            || peer.ip().is_some_and(|ip: IpAddr| self.networks.iter().any(|network| network.contains(ip)))
    }

    fn find<K: Hash + Eq + Clone>(&self, table: &Mutex<Generations<K>>, key: &K) -> Arc<Buckets> {
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        table.get(key, || Buckets::new(&self.template))
    }
}

impl Buckets {
    fn new(limit: &RateLimit) -> Self {
        Self {
            bytes: limit.bytes.map(Bucket::new),
            events: limit.events.map(Bucket::new),
            connections: limit.connections.map(Bucket::new),
        }
    }
}

/// The limits as one connection meets them.
pub(crate) struct Meter {
    rules: Arc<Rules>,
    /// For each rule that concerns this peer and no single tag: what it takes from.
    fixed: Vec<(usize, Arc<Buckets>)>,
    /// Rules that concern this peer and look at tags.
    by_tag: Vec<(usize, Option<Arc<Buckets>>)>,
    /// What the last tag is counted by. The next batch has mostly the same.
    tag: Arc<str>,
    of_tag: Vec<(usize, Arc<Buckets>)>,
}

impl Meter {
    pub(crate) fn new(rules: Arc<Rules>, peer: &Peer, source: Source) -> Self {
        let (mut fixed, mut by_tag) = (Vec::new(), Vec::new());
        for (index, rule) in rules.rules.iter().enumerate().filter(|(_, rule)| rule.is_for(peer)) {
            let shared = match &rule.state {
                State::Listener(buckets) => Some(buckets.clone()),
                State::Connection => Some(Arc::new(Buckets::new(&rule.template))),
                State::Source(table) => Some(rule.find(table, &source)),
                State::Tag(_) => None,
            };
            match shared {
                Some(buckets) if rule.tags.is_none() => fixed.push((index, buckets)),
                shared => by_tag.push((index, shared)),
            }
        }
        Self { rules, fixed, by_tag, tag: Arc::from(""), of_tag: Vec::new() }
    }

    /// Takes a batch of so many events and bytes.
    pub(crate) fn take(&mut self, now: Nanos, tag: &Arc<str>, events: u64, bytes: u64) -> Judgement {
        if self.fixed.is_empty() && self.by_tag.is_empty() {
            return Judgement::Pass;
        }
        if !self.by_tag.is_empty() && (*self.tag != **tag || self.of_tag.is_empty()) {
            self.turn_to(tag);
        }
        let mut wait = Duration::ZERO;
        for (index, buckets) in self.fixed.iter().chain(&self.of_tag) {
            let rule = &self.rules.rules[*index];
            let amounts = [(&buckets.bytes, bytes), (&buckets.events, events)];
            let amounts = amounts.iter().filter_map(|(bucket, amount)| Some((bucket.as_ref()?, *amount)));
            match rule.template.action {
                LimitAction::Slow => {
                    let longest = amounts.map(|(bucket, amount)| bucket.take(now, amount)).max();
                    if let Some(longest) = longest.filter(|longest| !longest.is_zero()) {
                        rule.hits.increment(1);
                        wait = wait.max(longest);
                    }
                }
                action => {
                    // All buckets are asked, so that each keeps its own rate.
                    let short = amounts.filter(|(bucket, amount)| !bucket.try_take(now, *amount)).count();
                    if short == 0 {
                        continue;
                    }
                    rule.hits.increment(1);
                    if action == LimitAction::Close {
                        return Judgement::Close;
                    }
                    rule.dropped.increment(events);
                    return Judgement::Drop;
                }
            }
        }
        if wait.is_zero() { Judgement::Pass } else { Judgement::Slow(wait) }
    }

    /// Whether no limit but those of tags holds for it.
    pub(crate) fn is_free(&self) -> bool {
        self.fixed.is_empty()
    }

    /// Takes what came and is no batch of any tag: what was refused or left out. For how long nothing more should be read;
    /// `0` bytes ask for what is owed already.
    pub(crate) fn charge(&self, now: Nanos, events: u64, bytes: u64) -> Duration {
        let mut wait = Duration::ZERO;
        for (index, buckets) in &self.fixed {
            for (bucket, amount) in [(&buckets.bytes, bytes), (&buckets.events, events)] {
                let owed = bucket.as_ref().map_or(Duration::ZERO, |bucket| bucket.take(now, amount));
                if self.rules.rules[*index].template.action == LimitAction::Slow {
                    wait = wait.max(owed);
                }
            }
        }
        wait
    }

    #[cold]
    fn turn_to(&mut self, tag: &Arc<str>) {
        self.tag = tag.clone();
        self.of_tag.clear();
        for (index, shared) in &self.by_tag {
            let rule = &self.rules.rules[*index];
            if rule.tags.as_ref().is_some_and(|tags| tags.route(tag).is_none()) {
                continue;
            }
            let buckets = match (&rule.state, shared) {
                (State::Tag(table), _) => rule.find(table, tag),
                (_, Some(shared)) => shared.clone(),
                (_, None) => continue,
            };
            self.of_tag.push((*index, buckets));
        }
    }
}

/// A bounded table that forgets what was not asked for since it last was full: the young become the old, and the old go.
struct Generations<K> {
    young: HashMap<K, Arc<Buckets>>,
    old: HashMap<K, Arc<Buckets>>,
}

impl<K> Default for Generations<K> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<K: Hash + Eq + Clone> Generations<K> {
    fn get(&mut self, key: &K, make: impl FnOnce() -> Buckets) -> Arc<Buckets> {
        if let Some(buckets) = self.young.get(key) {
            return buckets.clone();
        }
        let buckets = self.old.remove(key).unwrap_or_else(|| Arc::new(make()));
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key.clone(), buckets.clone());
        buckets
    }
}

fn word(action: LimitAction) -> &'static str {
    match action {
        LimitAction::Slow => "slow",
        LimitAction::Drop => "drop",
        LimitAction::Close => "close",
    }
}

#[cfg(test)]
mod tests {
    use weir_topology::Rate;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn limit(per: Per, action: LimitAction) -> RateLimit {
        RateLimit {
            name: format!("{per:?}"),
            per,
            networks: Vec::new(),
            tags: None,
            bytes: None,
            events: Some(Rate { per_second: 100, burst: 100 }),
            connections: None,
            action,
        }
    }

    fn meter(rules: &Arc<Rules>, address: &str) -> Meter {
        let peer = Peer::Net(address.parse().unwrap());
        Meter::new(rules.clone(), &peer, peer.source(32, 64))
    }

    fn rules(limits: &[RateLimit]) -> Arc<Rules> {
        Arc::new(Rules::new("l", limits).unwrap())
    }

    /// How many of a thousand single events pass at once.
    fn passed(meter: &mut Meter, now: Nanos, tag: &str) -> usize {
        let tag: Arc<str> = tag.into();
        (0..1000).filter(|_| meter.take(now, &tag, 1, 10) == Judgement::Pass).count()
    }

    #[test]
    fn each_is_counted_with_those_it_belongs_to() {
        let one = "10.0.0.1:1";
        // Which of four connections' events share a bucket: the same source twice, another source.
        for (per, expected) in [
            (Per::Listener, [100, 0, 0]),
            (Per::Connection, [100, 100, 100]),
            (Per::Source, [100, 0, 100]),
            (Per::Tag, [100, 0, 0]),
        ] {
            let rules = rules(&[limit(per, LimitAction::Drop)]);
            let seen = [one, one, "10.0.0.2:1"].map(|peer| passed(&mut meter(&rules, peer), 0, "a"));
            assert_eq!(seen, expected, "{per:?}");
        }
        let rules = rules(&[limit(Per::Tag, LimitAction::Drop)]);
        let mut meter = meter(&rules, one);
        assert_eq!(
            (passed(&mut meter, 0, "a"), passed(&mut meter, 0, "b"), passed(&mut meter, 0, "a")),
            (100, 100, 0)
        );
        assert_eq!(passed(&mut meter, SECOND, "a"), 100, "after a second there is as much again");
    }

    #[test]
    fn tags_and_networks_choose() {
        let mut some = limit(Per::Listener, LimitAction::Close);
        some.tags = Some("debug.** x".into());
        some.networks = vec!["10.0.0.0/8".parse().unwrap()];
        let rules = rules(&[some]);
        let mut inside = meter(&rules, "10.0.0.1:1");
        assert_eq!(passed(&mut inside, 0, "app"), 1000);
        assert_eq!(passed(&mut inside, 0, "debug.a"), 100);
        assert_eq!(inside.take(0, &"x".into(), 1, 1), Judgement::Close, "one bucket for all that match");
        assert_eq!(passed(&mut inside, 0, "app"), 1000);
        assert_eq!(passed(&mut meter(&rules, "192.0.2.1:1"), 0, "debug.a"), 1000);
    }

    #[test]
    fn slow_takes_everything_and_says_for_how_long() {
        let mut both = limit(Per::Connection, LimitAction::Slow);
        both.bytes = Some(Rate { per_second: 1000, burst: 1000 });
        let rules = rules(&[both]);
        let mut meter = meter(&rules, "10.0.0.1:1");
        let tag = "a".into();
        assert_eq!(meter.take(0, &tag, 50, 1000), Judgement::Pass);
        assert_eq!(meter.take(0, &tag, 100, 500), Judgement::Slow(Duration::from_millis(500)));
        assert_eq!(meter.take(SECOND / 2, &tag, 100, 0), Judgement::Slow(Duration::from_secs(1)));
    }

    #[test]
    fn what_is_no_batch_counts_and_a_newcomer_owes_it() {
        let mut source = limit(Per::Source, LimitAction::Slow);
        source.bytes = Some(Rate { per_second: 1000, burst: 1000 });
        let rules = rules(&[source]);
        let offender = meter(&rules, "10.0.0.1:1");
        assert_eq!(offender.charge(0, 0, 1000), Duration::ZERO, "a burst");
        assert_eq!(offender.charge(0, 0, 5000), Duration::from_secs(5));
        assert_eq!(meter(&rules, "10.0.0.1:2").charge(SECOND, 0, 0), Duration::from_secs(4));
        assert_eq!(meter(&rules, "10.0.0.2:1").charge(SECOND, 0, 0), Duration::ZERO);
        // A rule that does not slow down lets nothing of its kind pass until it is paid.
        let rules = self::rules(&[limit(Per::Source, LimitAction::Drop)]);
        let mut offender = meter(&rules, "10.0.0.1:1");
        assert_eq!(offender.charge(0, 1000, 0), Duration::ZERO);
        assert_eq!(passed(&mut offender, SECOND, "a"), 0);
    }

    #[test]
    fn connections_have_a_rate() {
        let mut new = limit(Per::Source, LimitAction::Close);
        (new.events, new.connections) = (None, Some(Rate { per_second: 5, burst: 5 }));
        let rules = rules(&[new]);
        let count = |address: &str| {
            let peer = Peer::Net(address.parse().unwrap());
            (0..10).filter(|_| rules.connect(0, &peer, peer.source(24, 64)).is_ok()).count()
        };
        assert_eq!([count("10.0.0.1:1"), count("10.0.0.9:1"), count("10.0.1.1:1")], [5, 0, 5]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let rules = rules(&[limit(Per::Tag, LimitAction::Drop)]);
        let mut meter = meter(&rules, "10.0.0.1:1");
        for number in 0..3 * REMEMBERED {
            meter.take(0, &format!("random.{number}").into(), 1, 1);
        }
        let State::Tag(table) = &rules.rules[0].state else { panic!() };
        let table = table.lock().unwrap();
        assert!(table.young.len() + table.old.len() <= 2 * REMEMBERED);
    }
}
