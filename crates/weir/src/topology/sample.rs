//! Tags that stand for a cluster's traffic where nobody has a list of its own.

use weir_routing::Pattern;
use weir_topology::Topology;

/// Tags in a sample.
const TAGS: usize = 10_000;

/// Tags that the patterns of these topologies match, evenly many for each pattern, in an order that is always the same.
pub(super) fn tags(topologies: &[&Topology]) -> Vec<String> {
    let mut patterns: Vec<&str> = topologies
        .iter()
        .flat_map(|topology| topology.routes.iter().flat_map(|route| route.patterns.split_whitespace()))
        .collect();
    patterns.sort_unstable();
    patterns.dedup();
    let each = TAGS.div_ceil(patterns.len().max(1));
    let mut tags: Vec<String> = patterns
        .iter()
        .flat_map(|text| (0..each).map(move |number| fill(text, number)).filter(|tag| is_matched(text, tag)))
        .collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}

fn is_matched(pattern: &str, tag: &str) -> bool {
    Pattern::parse(pattern).is_ok_and(|pattern| pattern.matches(tag))
}

/// One tag of a pattern: its wildcards filled, the alternatives taken in turn.
fn fill(pattern: &str, number: usize) -> String {
    let mut tag = String::new();
    let mut rest = pattern;
    while let Some(special) = rest.find(['*', '{', '\\']) {
        tag += &rest[..special];
        let inner = &rest[special..];
        rest = if let Some(after) = inner.strip_prefix("**") {
            tag += &format!("service-{}.host-{number}", number % 97);
            after
        } else if let Some(after) = inner.strip_prefix('*') {
            tag += &format!("part-{number}");
            after
        } else if let Some(after) = inner.strip_prefix('\\') {
            let length = after.chars().next().map_or(0, char::len_utf8);
            tag += &after[..length];
            &after[length..]
        } else {
            let (choices, after) = alternatives(inner);
            tag += &fill(choices[number % choices.len()], number / choices.len());
            after
        };
    }
    tag + rest
}

/// What stands between the braces that `text` begins with, and what is behind them.
fn alternatives(text: &str) -> (Vec<&str>, &str) {
    let (mut depth, mut start, mut choices) = (0, 1, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b',' if depth == 1 => {
                choices.push(&text[start..at]);
                start = at + 1;
            }
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            choices.push(&text[start..at]);
            return (choices, &text[at + 1..]);
        }
    }
    (vec![""], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_matched_by_its_pattern() {
        for pattern in ["a", "a.*", "a.**", "**", "**.error", "app.{web,db*}", "{a,{b,c.*}}.x", "a\\*b"] {
            for number in 0..6 {
                let tag = fill(pattern, number);
                assert!(is_matched(pattern, &tag), "{pattern} and {tag}");
            }
        }
        assert_ne!(fill("app.{web,db*}", 0), fill("app.{web,db*}", 1));
    }

    #[test]
    fn an_example_has_a_full_sample() {
        assert!(tags(&[&super::super::example("three-racks.toml")]).len() > TAGS / 2);
    }
}
