//! The routes of a topology file: their patterns, their groups, and which of them no event gets to.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use weir_model::GroupId;
use weir_routing::{Pattern, PatternError, Router};

use crate::model::{Ack, Route};
use crate::problem::did_you_mean;
use crate::read::{Block, Checked, Reader};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoute {
    name: Option<Spanned<Checked<String>>>,
    #[serde(rename = "match")]
    patterns: Spanned<String>,
    groups: Spanned<Vec<Spanned<String>>>,
    ack: Option<Spanned<Checked<Ack>>>,
}

/// The schema of `[[route]]`.
pub(crate) fn schema() -> serde_json::Value {
    crate::trace::table::<RawRoute>()
}

/// Reads the routes; none if one of them cannot be read. `known` are the ids of the groups.
pub(crate) fn read_routes(
    reader: &mut Reader<'_>,
    blocks: &[Block<'_>],
    known: &[String],
) -> Option<Vec<Route>> {
    let read: Vec<Option<(Route, Range<usize>)>> =
        blocks.iter().map(|block| route(reader, block, known)).collect();
    let (routes, places): (Vec<_>, Vec<_>) =
        read.into_iter().collect::<Option<Vec<_>>>()?.into_iter().unzip();
    // Each pattern was read alone, so that all that are wrong are reported; the router does not refuse them now.
    let compiled = routes.iter().map(|route: &Route| (route.patterns.clone(), Vec::new())).collect();
    let router = Router::new(compiled).ok()?;
    for (index, (route, place)) in routes.iter().zip(&places).enumerate() {
        let hidden_by = router.hidden_by(index, &route.patterns);
        if !hidden_by.is_empty() {
            let lines: Vec<String> =
                hidden_by.iter().map(|&earlier| reader.line(places[earlier].clone()).to_string()).collect();
            let message =
                format!("no event gets here: the match of line {} takes all its tags", lines.join(", "));
            let hint = "put this route before it, or delete one of them".to_owned();
            reader.warn(place.clone(), message, Some(hint));
        }
    }
    let takes_all = |route: &Route| route.patterns.split_whitespace().any(|pattern| pattern == "**");
    if !routes.iter().any(takes_all) {
        let hint = "add a last [[route]] with match = \"**\"".to_owned();
        let place = blocks.last().map_or(0..0, Spanned::span);
        reader.warn(place, "events that match no route are dropped and counted", Some(hint));
    }
    Some(routes)
}

/// A route, and the place of its patterns; none if something in it is wrong.
fn route(reader: &mut Reader<'_>, block: &Block<'_>, known: &[String]) -> Option<(Route, Range<usize>)> {
    let raw: RawRoute = reader.block(block, &[])?;
    let name = raw.name.and_then(|name| reader.required(name));
    let groups = targets(reader, raw.groups, known);
    let ack = raw.ack.and_then(|ack| reader.required(ack));
    let place = raw.patterns.span();
    let sound = patterns(reader, &raw.patterns);
    sound.then(|| (Route { name, patterns: raw.patterns.into_inner(), groups, ack }, place))
}

/// Reports each pattern that is none; whether all are sound.
fn patterns(reader: &mut Reader<'_>, written: &Spanned<String>) -> bool {
    let text = written.get_ref();
    if text.trim().is_empty() {
        let hint = "write match = \"**\" for every tag".to_owned();
        reader.error(written.span(), "the route matches nothing", Some(hint));
        return false;
    }
    let mut sound = true;
    let mut end = 0;
    for pattern in text.split_whitespace() {
        // Each is found behind the one before it, so the first place is its own.
        let start = end + text[end..].find(pattern).unwrap_or(0);
        end = start + pattern.len();
        let Err(error) = Pattern::parse(pattern) else { continue };
        sound = false;
        let (within, hint) = match error {
            PatternError::Unclosed(at) => (at, Some("write {a,b}, without white space between the braces")),
            PatternError::Unopened(at) => (at, Some("write {a,b}, without white space between the braces")),
            PatternError::Escape => (pattern.len() - 1, Some("write it twice for the character itself")),
            PatternError::Empty | PatternError::TooLong(_) | PatternError::Regex => (0, None),
        };
        let place = reader.within(written.span(), text, start + within);
        reader.error(place, format!("pattern {pattern:?}: {error}"), hint.map(Into::into));
    }
    sound
}

fn targets(reader: &mut Reader<'_>, names: Spanned<Vec<Spanned<String>>>, known: &[String]) -> Vec<GroupId> {
    if names.get_ref().is_empty() {
        let hint = "name one group at least".to_owned();
        reader.error(names.span(), "the route leads nowhere", Some(hint));
    }
    let mut groups = Vec::new();
    for name in names.into_inner() {
        let text = name.get_ref();
        match GroupId::new(text) {
            Ok(id) if groups.contains(&id) => {
                reader.error(name.span(), format!("group {text:?} is named twice"), None);
            }
            Ok(id) if known.contains(text) => groups.push(id),
            _ => {
                let hint = did_you_mean(text, known.iter().map(String::as_str));
                reader.error(name.span(), format!("there is no group {text:?}"), hint);
            }
        }
    }
    groups
}
