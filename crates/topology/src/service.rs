//! `[[service]]`: a group and the route to it in one stanza, for a service that has sinks, a store and limits of its own.
//!
//! It is split into the two before anything is read, so that all that holds for groups and routes holds here too, and a
//! problem stands where it was written.

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::read::{Block, Reader};

/// Which tags are the service's.
const MATCH: &str = "match";
/// Further groups that get a copy.
const COPY_TO: &str = "copy_to";

/// The group of a service, and the route to it if its tags are named.
pub(crate) fn split<'t>(reader: &mut Reader<'_>, mut service: Block<'t>) -> (Block<'t>, Option<Block<'t>>) {
    let place = service.span();
    let patterns = service.get_mut().remove_entry(MATCH);
    let copies = service.get_mut().remove(COPY_TO);
    let id = service.get_ref().get("id").cloned();
    let Some((key, patterns)) = patterns else {
        let hint = "write match = \"billing.**\", or make it a [[group]]".to_owned();
        reader.error(place, "the service has no tags", Some(hint));
        return (service, None);
    };
    let copies = match copies.map(|copies| (copies.span(), copies.into_inner())) {
        Some((_, DeValue::Array(copies))) => copies,
        Some((span, _)) => {
            let hint = "write copy_to = [\"archive\"]".to_owned();
            reader.error(span, "`copy_to` is a list of group ids", Some(hint));
            DeArray::new()
        }
        None => DeArray::new(),
    };
    let mut route = DeTable::new();
    let groups = id.into_iter().chain(copies).collect();
    let groups = Spanned::new(place.clone(), DeValue::Array(groups));
    route.insert(Spanned::new(place.clone(), "groups".into()), groups);
    route.insert(key, patterns);
    (service, Some(Spanned::new(place, route)))
}
