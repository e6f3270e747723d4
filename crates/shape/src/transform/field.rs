//! Fields of a record: paths through nested maps, and maps whose members can be changed one by one.
//!
//! What is not changed stays the bytes that it was. Left out on purpose: elements of arrays.

use std::borrow::Cow;
use std::fmt;

use weir_forward::scan::skip;

use crate::msgpack::{Input, Piece};

/// Why a text is no path of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Nothing before, behind or between dots; the offset of it.
    #[error("a field has no empty name in its path")]
    Empty(usize),
    /// A backslash at the end.
    #[error("a backslash takes the next character as it is, and there is none")]
    Escape(usize),
}

/// Where a value is in a record: `user.address.city` is the member `city` of the map `address` of the map `user`. A
/// backslash takes the next character as it is: `a\.b` is one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field(Vec<String>);

impl Field {
    /// Reads a path.
    ///
    /// # Errors
    /// [`FieldError`], with the offset of what is wrong.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let (mut names, mut name, mut begin) = (Vec::new(), String::new(), 0);
        let mut chars = text.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.push(chars.next().ok_or(FieldError::Escape(at))?.1),
                '.' if name.is_empty() => return Err(FieldError::Empty(begin)),
                '.' => {
                    names.push(std::mem::take(&mut name));
                    begin = at + 1;
                }
                c => name.push(c),
            }
        }
        if name.is_empty() {
            return Err(FieldError::Empty(begin));
        }
        names.push(name);
        Ok(Self(names))
    }

    /// The path that `self` is, seen from within a map at `parent`.
    #[must_use]
    pub fn below(self, parent: Option<&Self>) -> Self {
        Self(parent.into_iter().flat_map(|parent| parent.0.clone()).chain(self.0).collect())
    }

    /// Whether `other` lies within the value of this field, or is it.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.0
    }

    fn split(&self) -> (&[String], &str) {
        // A path has a name at least.
        self.0.split_last().map_or((&[], ""), |(last, parents)| (parents, last))
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> =
            self.0.iter().map(|name| name.replace('\\', "\\\\").replace('.', "\\.")).collect();
        f.write_str(&names.join("."))
    }
}

/// The members of a map, each key and value as MessagePack.
pub(super) struct Members<'a>(Vec<(Bytes<'a>, Bytes<'a>)>);

/// As they lie in the record, or made.
type Bytes<'a> = Cow<'a, [u8]>;

impl<'a> Members<'a> {
    /// Takes a map apart; none if it is something else.
    pub(super) fn read(map: &'a [u8]) -> Option<Self> {
        let mut input = Input::new(map);
        let Ok(Piece::Map(len)) = input.next() else { return None };
        let mut members = Vec::with_capacity(len.min(map.len()));
        for _ in 0..len {
            let key = input.value_at(input.pos()).ok()?;
            let value = input.value_at(input.pos()).ok()?;
            members.push((Cow::Borrowed(key), Cow::Borrowed(value)));
        }
        Some(Self(members))
    }

    /// Appends the map to `out`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        // A Vec takes every write, and no record has as many members as 32 bits tell.
        let _ = rmp::encode::write_map_len(out, u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        for (key, value) in &self.0 {
            out.extend_from_slice(key);
            out.extend_from_slice(value);
        }
    }

    fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// The value of a field, as MessagePack; of several with one name the last.
    pub(super) fn get(&self, field: &Field) -> Option<&[u8]> {
        let (first, rest) = field.names().split_first()?;
        let (_, value) = self.0.iter().rev().find(|(key, _)| is_named(key, first))?;
        rest.iter().try_fold(&**value, |map, name| member(map, name))
    }

    /// Takes a field out; whether there was one.
    pub(super) fn remove(&mut self, field: &Field) -> bool {
        let (parents, name) = field.split();
        self.within(parents, &mut |map| {
            let before = map.0.len();
            map.0.retain(|(key, _)| !is_named(key, name));
            map.0.len() != before
        })
    }

    /// Lets `change` give a field another value, if it is there; whether it did.
    pub(super) fn change(&mut self, field: &Field, change: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>) -> bool {
        let (parents, name) = field.split();
        self.within(parents, &mut |map| {
            let mut changed = false;
            for (_, value) in map.0.iter_mut().filter(|(key, _)| is_named(key, name)) {
                if let Some(new) = change(value) {
                    *value = Cow::Owned(new);
                    changed = true;
                }
            }
            changed
        })
    }

    /// Whether [`set`](Self::set) would: what the path leads through are maps, and the record does not become too deep.
    pub(super) fn can_set(&self, field: &Field, value: &[u8]) -> bool {
        let (parents, _) = field.split();
        let through_maps = (1..=parents.len()).all(|len| {
            let parent = self.get(&Field(parents[..len].to_vec()));
            parent.is_none_or(|value| matches!(Input::new(value).next(), Ok(Piece::Map(_))))
        });
        through_maps && fits(value, field.names().len())
    }

    /// Gives a field a value, in its place if it is there, otherwise as the last; maps on the way are made. A path through
    /// something that is no map changes nothing. Whether it did.
    pub(super) fn set(&mut self, field: &Field, value: &[u8]) -> bool {
        self.can_set(field, value) && {
            self.put(field.names(), value);
            true
        }
    }

    fn put(&mut self, names: &[String], value: &[u8]) {
        let Some((first, rest)) = names.split_first() else { return };
        match self.0.iter_mut().rev().find(|(key, _)| is_named(key, first)) {
            Some((_, there)) if rest.is_empty() => *there = Cow::Owned(value.to_vec()),
            Some((_, there)) => {
                let new = Members::read(there).map(|mut inner| {
                    inner.put(rest, value);
                    inner.to_vec()
                });
                if let Some(new) = new {
                    *there = Cow::Owned(new);
                }
            }
            None => {
                let mut made = Cow::Borrowed(value);
                for name in rest.iter().rev() {
                    made = Members(vec![(text(name).into(), made)]).to_vec().into();
                }
                self.0.push((text(first).into(), Cow::Owned(made.into_owned())));
            }
        }
    }

    /// Moves a field; whether it did. One of the other name makes room for it.
    pub(super) fn rename(&mut self, from: &Field, to: &Field) -> bool {
        let Some(value) = self.get(from).map(<[u8]>::to_vec) else { return false };
        let ((parents, old), (others, new)) = (from.split(), to.split());
        if parents != others {
            return self.can_set(to, &value) && self.remove(from) && self.set(to, &value);
        }
        // It keeps its place.
        self.within(parents, &mut |map| {
            let Some(at) = map.0.iter().rposition(|(key, _)| is_named(key, old)) else { return false };
            let mut index = 0;
            map.0[at].0 = text(new).into();
            map.0.retain(|(key, _)| {
                index += 1;
                index - 1 == at || !(is_named(key, old) || is_named(key, new))
            });
            true
        })
    }

    /// Leaves nothing but these fields; whether there was anything else.
    pub(super) fn keep(&mut self, fields: &[&[String]]) -> bool {
        let mut changed = false;
        self.0.retain_mut(|(key, value)| {
            let ours: Vec<&[String]> = fields
                .iter()
                .filter_map(|names| names.split_first())
                .filter_map(|(first, rest)| is_named(key, first).then_some(rest))
                .collect();
            if ours.iter().any(|rest| rest.is_empty()) {
                return true;
            }
            let kept = Members::read(value).filter(|_| !ours.is_empty()).map(|mut inner| {
                let less = inner.keep(&ours);
                (inner.0.is_empty(), less.then(|| inner.to_vec()))
            });
            match kept {
                Some((false, None)) => true,
                Some((false, Some(less))) => {
                    *value = Cow::Owned(less);
                    changed = true;
                    true
                }
                _ => {
                    changed = true;
                    false
                }
            }
        });
        changed
    }

    /// Lets `edit` change the map at `parents`; whether it did.
    fn within(&mut self, parents: &[String], edit: &mut dyn FnMut(&mut Members<'_>) -> bool) -> bool {
        let Some((first, rest)) = parents.split_first() else { return edit(self) };
        let mut changed = false;
        for (_, value) in self.0.iter_mut().filter(|(key, _)| is_named(key, first)) {
            let new =
                Members::read(value).and_then(|mut inner| inner.within(rest, edit).then(|| inner.to_vec()));
            if let Some(new) = new {
                *value = Cow::Owned(new);
                changed = true;
            }
        }
        changed
    }
}

/// A text as MessagePack.
pub(super) fn text(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 5);
    let _ = rmp::encode::write_str(&mut out, text); // a Vec takes every write
    out
}

fn is_named(key: &[u8], name: &str) -> bool {
    matches!(Input::new(key).next(), Ok(Piece::Str(text) | Piece::Bin(text)) if text == name.as_bytes())
}

/// The member of that name; of several the last.
fn member<'a>(map: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut input = Input::new(map);
    let Ok(Piece::Map(len)) = input.next() else { return None };
    let mut found = None;
    for _ in 0..len {
        let key = input.value_at(input.pos()).ok()?;
        let value = input.value_at(input.pos()).ok()?;
        if is_named(key, name) {
            found = Some(value);
        }
    }
    found
}

/// Whether readers of an entry take a value that lies within `maps` maps of its record: they count containers.
fn fits(value: &[u8], maps: usize) -> bool {
    if !matches!(Input::new(value).next(), Ok(Piece::Map(_) | Piece::Array(_))) {
        return true;
    }
    // As many arrays of one around it as there are maps, and the entry.
    let mut wrapped = vec![0x91; maps + 1];
    wrapped.extend_from_slice(value);
    skip(&wrapped).is_ok()
}
