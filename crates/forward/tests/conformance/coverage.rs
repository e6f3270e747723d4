//! That every numbered requirement, and every row of the list of disagreements, has a case that names it.

use std::collections::BTreeSet;

/// The texts in which cases and tests name their numbers, in brackets: `[R1, #4]`, `[R28 to R30]`.
const TEXTS: &[&str] = &[
    include_str!("cases.rs"),
    include_str!("json.rs"),
    include_str!("packing.rs"),
    include_str!("property.rs"),
    include_str!("../handshake.rs"),
    include_str!("../../../edge/tests/door/bytes.rs"),
    include_str!("../../../edge/tests/door/carriers.rs"),
    include_str!("../../../edge/tests/door/handshake.rs"),
    include_str!("../../../edge/tests/door/live.rs"),
    include_str!("../../../edge/tests/door/tables.rs"),
    include_str!("../../../edge/tests/door/times.rs"),
];

/// Numbers without a case, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    ("R43", "a figure, not a case: `weir-loadgen bench` measures it"),
    ("R47", "a design rule: the identity travels to the sinks, see crates/transit"),
];

fn numbers(kind: char, last: u32) -> BTreeSet<String> {
    (1..=last).map(|number| format!("{kind}{number}")).collect()
}

fn named(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for bracket in text.split('[').skip(1).filter_map(|rest| rest.split_once(']')) {
        let words: Vec<&str> = bracket.0.split([',', ' ']).filter(|word| !word.is_empty()).collect();
        let number = |word: &str| word.get(1..).and_then(|digits| digits.parse::<u32>().ok());
        for (index, word) in words.iter().enumerate() {
            if !word.starts_with(['R', '#']) {
                continue;
            }
            let Some(from) = number(word) else { continue };
            let to = match words.get(index + 1..index + 3) {
                Some(["to", last]) => number(last).unwrap_or(from),
                _ => from,
            };
            found.extend((from..=to).map(|number| format!("{}{number}", &word[..1])));
        }
    }
    found
}

#[test]
fn every_number_has_a_case() {
    let mut found: BTreeSet<String> = TEXTS.iter().flat_map(|text| named(text)).collect();
    found.extend(ELSEWHERE.iter().map(|(number, _)| (*number).to_owned()));
    let wanted: BTreeSet<String> = numbers('R', 60).into_iter().chain(numbers('#', 30)).collect();
    let missing: Vec<_> = wanted.difference(&found).collect();
    assert!(missing.is_empty(), "no case names {missing:?}");
    let unknown: Vec<_> = found.difference(&wanted).collect();
    assert!(unknown.is_empty(), "there is no {unknown:?}");
}
