//! Which member of a group owns a tag, and who takes over when it is gone.
//!
//! Every hash here is XXH3-64 with a fixed seed over plain bytes, never `std`'s encoding of `str` or tuples:
//! that one may change with a compiler, and all tags would move. `golden/placement.txt` holds it still.
//! Left out on purpose: opinions on health (the caller's closure has them) and balancing by measured load.

use std::hash::{Hash, Hasher};

use consistent_hash::{Node, RingHash, StaticHashRing};
use weir_model::NodeId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The version of the placement: seeds, hash and points for each unit of weight. Nodes of different versions
/// would place the same tag differently.
pub const RING_VERSION: u32 = 1;

/// Greatest weight; a member with more counts as this. It bounds the ring's memory: a member of this weight
/// holds 51 200 points of 16 bytes.
pub const WEIGHT_MAX: u32 = 100;

/// Points on the ring for each unit of weight. More would even out the shares and cost memory.
const POINTS_PER_WEIGHT: usize = 512;

const TAG_SEED: u64 = u64::from_be_bytes(*b"weir tag");
const NODE_SEED: u64 = u64::from_be_bytes(*b"weirnode");

/// One member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name; it alone decides where the member's points lie.
    pub node: NodeId,
    /// Its share of tags, relative to the others'. A member of weight 0 is in no candidate list. At most
    /// [`WEIGHT_MAX`].
    pub weight: u32,
    /// Where it stands.
    pub rack: String,
}

/// The members of one group on a hash ring. Immutable: a change of members makes a new ring, and moves only the
/// tags of the members that changed.
pub struct Ring {
    ring: StaticHashRing<'static, Key, bool, Placement>,
    affinity: bool,
}

impl Ring {
    /// Builds the ring. With `own_rack` given, members of that rack come first in every candidate list.
    ///
    /// Of several members with one name only the first counts.
    #[must_use]
    pub fn new(members: &[Member], own_rack: Option<&str>) -> Self {
        let nodes = members.iter().filter(|member| member.weight > 0).map(|member| Node {
            key: Key(member.node.clone()),
            value: own_rack == Some(member.rack.as_str()),
            quantity: POINTS_PER_WEIGHT * member.weight.min(WEIGHT_MAX) as usize,
        });
        Self { ring: StaticHashRing::new(Placement, nodes), affinity: own_rack.is_some() }
    }

    /// All members in failover order: the first owns the tag, the next takes over when those before it are gone.
    #[must_use]
    pub fn candidates(&self, tag: &str) -> Vec<NodeId> {
        let (mut near, far): (Vec<_>, Vec<_>) = self.walk(tag).partition(|node| node.value);
        near.extend(far);
        near.into_iter().map(|node| node.key.0.clone()).collect()
    }

    /// The first candidate that `live` accepts; `None` when it accepts none.
    pub fn owner(&self, tag: &str, live: &dyn Fn(&NodeId) -> bool) -> Option<NodeId> {
        let mut far = None;
        for node in self.walk(tag).filter(|node| live(&node.key.0)) {
            if node.value || !self.affinity {
                return Some(node.key.0.clone());
            }
            far.get_or_insert(&node.key.0);
        }
        far.cloned()
    }

    /// Members in the order of the ring; a node's value tells whether it stands in the own rack.
    fn walk(&self, tag: &str) -> impl Iterator<Item = &Node<Key, bool>> {
        self.ring.calc_candidates(&Bytes(tag.as_bytes()))
    }
}

impl std::fmt::Debug for Ring {
    // Names only: the points are thousands.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.ring.nodes().iter().map(|node| &node.key.0)).finish()
    }
}

/// A member's name on the ring, hashed as [`Bytes`] are.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(NodeId);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Bytes(self.0.as_str().as_bytes()).hash(state);
    }
}

/// Bytes whose hash is exactly one `write`: no length, no end mark.
struct Bytes<'a>(&'a [u8]);

impl Hash for Bytes<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0);
    }
}

/// Where tags and members lie on the ring.
struct Placement;

impl RingHash for Placement {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        xxh3(item, TAG_SEED)
    }

    fn hash_vnode<K: Hash>(&self, key: &K, number: usize) -> u64 {
        let step = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        splitmix64(xxh3(key, NODE_SEED).wrapping_add(step))
    }
}

/// The output function of SplitMix64 (Steele, Lea and Flood, 2014).
fn splitmix64(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn xxh3<T: Hash>(item: &T, seed: u64) -> u64 {
    /// Takes the one `write` of [`Bytes`]; the streaming XXH3 state would be half a kilobyte.
    struct OneWrite(u64);

    impl Hasher for OneWrite {
        fn write(&mut self, bytes: &[u8]) {
            self.0 = xxh3_64_with_seed(bytes, self.0);
        }

        fn finish(&self) -> u64 {
            self.0
        }
    }

    let mut hasher = OneWrite(seed);
    item.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn member(name: &str, weight: u32, rack: &str) -> Member {
        Member { node: NodeId::new(name).unwrap(), weight, rack: rack.to_owned() }
    }

    fn ring(nodes: usize) -> Ring {
        let members: Vec<_> = (1..=nodes).map(|i| member(&format!("sink-{i}"), 1, "r")).collect();
        Ring::new(&members, None)
    }

    fn tags(count: usize) -> impl Iterator<Item = String> {
        (0..count).map(|i| format!("team{}.app{i}.{}", i % 17, ["web", "db", "größe"][i % 3]))
    }

    fn owner(ring: &Ring, tag: &str) -> String {
        ring.owner(tag, &|_| true).unwrap().to_string()
    }

    // A difference here moves tags in every running cluster: it is a new RING_VERSION, not an edit of the file.
    // To write the file of a new version, run the tests with WEIR_BLESS set.
    #[test]
    fn placement_is_what_it_always_was() {
        let ring = ring(5);
        let placed: String = tags(200)
            .map(|tag| {
                let candidates = ring.candidates(&tag);
                format!("{tag} {} {} {}\n", candidates[0], candidates[1], candidates[2])
            })
            .collect();
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/placement.txt");
        if std::env::var_os("WEIR_BLESS").is_some() {
            std::fs::write(golden, &placed).unwrap();
        }
        let expected = std::fs::read_to_string(golden).unwrap();
        for (line, expected) in placed.lines().zip(expected.lines()) {
            assert_eq!(line, expected);
        }
        assert_eq!(placed.lines().count(), expected.lines().count());
    }

    #[test]
    fn a_removed_member_moves_only_its_own_tags_each_to_its_second_candidate() {
        let (all, fewer) = (ring(10), ring(9));
        let mut moved = 0;
        for tag in tags(5_000) {
            let before = all.candidates(&tag);
            let gone = |node: &NodeId| node.as_str() == "sink-10";
            let kept: Vec<_> = before.iter().filter(|node| !gone(node)).cloned().collect();
            assert_eq!(fewer.candidates(&tag), kept, "{tag}");
            // Being down is like being gone.
            assert_eq!(all.owner(&tag, &|node| !gone(node)).as_ref(), kept.first(), "{tag}");
            if gone(&before[0]) {
                assert_eq!(owner(&fewer, &tag), before[1].as_str());
                moved += 1;
            }
        }
        assert!(moved > 300, "only {moved} tags were sink-10's");
    }

    #[test]
    fn an_added_member_takes_about_its_share_and_moves_nothing_else() {
        let (ten, eleven) = (ring(10), ring(11));
        let mut moved = 0;
        for tag in tags(50_000) {
            let (before, after) = (owner(&ten, &tag), owner(&eleven, &tag));
            if before != after {
                assert_eq!(after, "sink-11", "{tag}");
                moved += 1;
            }
        }
        let ideal = 50_000 / 11;
        assert!(moved * 10 <= ideal * 13 && moved * 10 >= ideal * 7, "{moved} moved, ideal {ideal}");
    }

    #[test]
    fn double_weight_takes_about_double() {
        let members: Vec<_> =
            (1..=10).map(|i| member(&format!("sink-{i}"), 1 + u32::from(i == 1), "r")).collect();
        let ring = Ring::new(&members, None);
        let mut shares: HashMap<String, usize> = HashMap::new();
        for tag in tags(50_000) {
            *shares.entry(owner(&ring, &tag)).or_default() += 1;
        }
        let heavy = shares["sink-1"] as f64;
        let others = (50_000.0 - heavy) / 9.0;
        assert!((1.7..2.3).contains(&(heavy / others)), "{heavy} against {others}");
    }

    #[test]
    fn the_own_rack_comes_first_in_ring_order() {
        let racks = ["a", "b", "c"];
        let members: Vec<_> = (0..9).map(|i| member(&format!("sink-{i}"), 1, racks[i % 3])).collect();
        let rack = |node: &NodeId| members.iter().find(|m| m.node == *node).unwrap().rack.as_str();
        let (plain, near) = (Ring::new(&members, None), Ring::new(&members, Some("b")));
        for tag in tags(500) {
            let order = plain.candidates(&tag);
            let (mut expected, far): (Vec<_>, Vec<_>) = order.into_iter().partition(|node| rack(node) == "b");
            expected.extend(far);
            let order = near.candidates(&tag);
            assert_eq!(order, expected, "{tag}");
            // The owner is the first live candidate, with all alive, one down, and the whole rack down.
            for down in [0, 1, 3, 8] {
                assert_eq!(near.owner(&tag, &|node| !order[..down].contains(node)).as_ref(), order.get(down));
            }
            assert_eq!(near.owner(&tag, &|_| false), None);
        }
        // A rack that nobody stands in changes nothing.
        let lonely = Ring::new(&members, Some("z"));
        assert!(tags(100).all(|tag| lonely.candidates(&tag) == plain.candidates(&tag)));
    }

    #[test]
    fn odd_groups_have_an_answer() {
        assert!(Ring::new(&[], None).candidates("a").is_empty());
        assert_eq!(Ring::new(&[], Some("a")).owner("a", &|_| true), None);
        let idle = [member("s1", 0, "a"), member("s2", 1, "b"), member("s2", 7, "a")];
        assert_eq!(Ring::new(&idle, Some("a")).candidates("t"), [NodeId::new("s2").unwrap()]);
        let huge = Ring::new(&[member("s1", u32::MAX, "a")], None);
        assert_eq!(huge.ring.len(), POINTS_PER_WEIGHT * WEIGHT_MAX as usize);
    }

    #[test]
    fn a_ring_can_be_shared_between_threads() {
        fn shared<T: Send + Sync>(_: &T) {}
        shared(&ring(1));
    }
}
