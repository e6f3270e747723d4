//! What the header promises and what the events get are the same.

use std::collections::BTreeSet;

use proptest::prelude::*;
use weir_model::{BatchHeader, Encoding, MinuteTally};
use weir_shape::Partitioner;
use weir_store::Partition;

const TEMPLATES: [&str; 8] = [
    "",
    "logs",
    "{tag}",
    "%Y/%m/%d/%H/%M",
    "%M/%H/{tag[0]}",
    "dt=%Y-%m-%d/{tag}",
    "{tag[1]}/%Y%m%d%H",
    "x{tag[7]}/%m",
];

fn header(tag: &str, secs: &[i64]) -> BatchHeader {
    let minutes: BTreeSet<i64> = secs.iter().map(|secs| secs.div_euclid(60)).collect();
    BatchHeader {
        tag: tag.into(),
        encoding: Encoding::Plain,
        received_ns: 1_767_323_045_678_901_234,
        chunks: Vec::new(),
        unpacked_bytes: 0,
        minutes: minutes
            .into_iter()
            .map(|minute| MinuteTally { minute, events: 1, bytes: 1, digest: 0 })
            .collect(),
    }
}

fn secs() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => 1_767_300_000..1_767_400_000_i64,
        2 => -200_000..200_000_i64,
        1 => any::<i64>(),
        1 => -9_223_372_200..-9_223_371_900_i64,
        1 => 9_223_371_900..9_223_372_200_i64,
    ]
}

proptest! {
    #[test]
    fn the_header_names_exactly_the_partitions_of_the_events(
        tag in prop_oneof!["[a-z]{1,3}(\\.[a-z]{0,3}){0,3}", any::<String>()],
        secs in prop::collection::vec(secs(), 1..30),
        template in prop::sample::select(&TEMPLATES),
    ) {
        let partitioner = Partitioner::new(template).unwrap();
        let mut of_tag = partitioner.of_tag(&tag);
        let of_events: BTreeSet<Partition> = secs
            .iter()
            .map(|secs| {
                // As the stores call it: with the time that an event got.
                let time_ns = (i128::from(*secs) * 1_000_000_000).clamp(i64::MIN.into(), i64::MAX.into()) as i64;
                let of_time = partitioner.partition_of(&tag, time_ns.div_euclid(1_000_000_000));
                assert_eq!(of_time, partitioner.partition_of(&tag, *secs));
                assert_eq!(&of_time, of_tag.at(*secs));
                of_time
            })
            .collect();
        let of_header = partitioner.partitions(&header(&tag, &secs));
        prop_assert_eq!(&of_header, &of_events.into_iter().collect::<Vec<_>>());
        for partition in &of_header {
            for component in partition.split('/').filter(|_| !template.is_empty()) {
                prop_assert!(!component.is_empty() && component.len() <= 255, "{}", partition);
                prop_assert!(!component.starts_with(['.', '_']), "{}", partition);
                prop_assert!(!component.contains(|c: char| c == ':' || c.is_control()), "{}", partition);
            }
            prop_assert_eq!(partition.split('/').count(), template.split('/').count());
        }
    }
}

#[test]
fn a_batch_without_events_has_a_partition_too() {
    for template in TEMPLATES {
        let partitioner = Partitioner::new(template).unwrap();
        let partitions = partitioner.partitions(&header("app", &[]));
        assert_eq!(partitions, [partitioner.partition_of("app", 1_767_323_045)]);
    }
}
