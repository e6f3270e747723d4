//! Which place in a store an event goes to: a path made of its tag and its minute.
//!
//! Left out on purpose: file names, and anything finer than the minutes that a batch's header counts.

use weir_model::BatchHeader;
use weir_store::Partition;

use crate::time::{Civil, SECOND_NS, two_digits};

/// Longest path component, in bytes: HDFS (`dfs.namenode.fs-limits.max-component-length`) and most file systems
/// take no more. A template that could exceed it is refused.
const COMPONENT_BYTES_MAX: usize = 255;

/// Longest text that a tag, or a piece of one, becomes, in bytes. Longer ones are cut and end in a hash.
const TAG_BYTES_MAX: usize = 200;

/// The seconds of the times that [`crate::Event::time_ns`] can hold.
const SECS_MIN: i64 = i64::MIN.div_euclid(SECOND_NS);
const SECS_MAX: i64 = i64::MAX.div_euclid(SECOND_NS);

/// Why a text is no partition template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A `%` with something else behind it than `Y`, `m`, `d`, `H` or `M`.
    #[error("{0:?} in a partition template: known are %Y, %m, %d, %H and %M")]
    Time(String),
    /// A `{` that opens neither `{tag}` nor `{tag[N]}`, or a `}` without it.
    #[error("{0:?} in a partition template: known are {{tag}} and {{tag[0]}}, {{tag[1]}} and so on")]
    Placeholder(String),
    /// A control character, or a colon, which HDFS refuses.
    #[error("character {0:?} in a partition template")]
    Character(char),
    /// An empty path component, that is a slash at the beginning, the end or beside another.
    #[error("a partition template with an empty path component")]
    Empty,
    /// A path component that begins with `.` or `_`: stores keep such names for themselves, and readers of stores skip
    /// them.
    #[error("path component {0:?} of a partition template begins with '.' or '_'")]
    Hidden(String),
    /// A path component that may become longer than stores take.
    #[error("path component {0:?} of a partition template may exceed {COMPONENT_BYTES_MAX} bytes")]
    Long(String),
}

/// A partition template, ready for use.
///
/// A template is a relative path in which `%Y`, `%m`, `%d`, `%H` and `%M` stand for the UTC time of the event,
/// `{tag}` for its tag and `{tag[0]}`, `{tag[1]}`, … for what the dots of the tag divide. The empty template makes
/// one partition with the empty name.
///
/// In the text of a tag, `/`, `:`, `%`, control characters and a leading `.` or `_` are percent-encoded; above 200
/// bytes it is cut, and ends in `-` and the 16 hexadecimal digits of the XXH3-64 of what it was made of. A piece that a
/// tag does not have, or that is empty, is called `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partitioner {
    pieces: Vec<Piece>,
    timed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Tag,
    TagElement(usize),
}

impl Partitioner {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError`] when it is not one, or when a path made of it might not be one.
    pub fn new(template: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        if !template.is_empty() {
            for component in template.split('/') {
                if !pieces.is_empty() {
                    pieces.push(Piece::Literal("/".to_owned()));
                }
                pieces.extend(parse(component)?);
            }
        }
        let timed = pieces.iter().any(|piece| {
            matches!(piece, Piece::Year | Piece::Month | Piece::Day | Piece::Hour | Piece::Minute)
        });
        Ok(Self { pieces, timed })
    }

    /// The partitions into which the events of a batch with this header fall: sorted, each once, never none.
    #[must_use]
    pub fn partitions(&self, header: &BatchHeader) -> Vec<Partition> {
        let mut of_tag = self.of_tag(&header.tag);
        if !self.timed || header.minutes.is_empty() {
            return vec![of_tag.at(header.received_ns.div_euclid(SECOND_NS)).clone()];
        }
        let mut partitions: Vec<Partition> = Vec::new();
        for minute in &header.minutes {
            let partition = of_tag.at(minute.minute.saturating_mul(60));
            // Neighbouring minutes mostly share their partition.
            if partitions.last() != Some(partition) {
                partitions.push(partition.clone());
            }
        }
        partitions.sort_unstable();
        partitions.dedup();
        partitions
    }

    /// The partition of an event with this tag, `secs` seconds after 1970. It is one of
    /// [`partitions`](Self::partitions) of its batch's header. For many events of one tag see
    /// [`of_tag`](Self::of_tag).
    #[must_use]
    pub fn partition_of(&self, tag: &str, secs: i64) -> Partition {
        self.of_tag(tag).at(secs).clone()
    }

    /// The partitions of the events of one tag, as [`partition_of`](Self::partition_of) names them: next to free for an
    /// event in the same minute as the one before.
    #[must_use]
    pub fn of_tag(&self, tag: &str) -> TagPartitions<'_> {
        let text = |piece: &Piece| match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Tag => component_of(tag),
            Piece::TagElement(index) => component_of(tag.split('.').nth(*index).unwrap_or_default()),
            Piece::Year | Piece::Month | Piece::Day | Piece::Hour | Piece::Minute => String::new(),
        };
        let texts = self.pieces.iter().map(text).collect();
        TagPartitions { partitioner: self, texts, current: None }
    }
}

/// The partitions of one tag's events; [`Partitioner::of_tag`] makes it.
#[derive(Debug)]
pub struct TagPartitions<'p> {
    partitioner: &'p Partitioner,
    /// For each piece of the template its text; empty for pieces of time.
    texts: Vec<String>,
    /// The minute of the last event, and its partition.
    current: Option<(i64, Partition)>,
}

impl TagPartitions<'_> {
    /// The partition of an event `secs` seconds after 1970.
    #[inline]
    pub fn at(&mut self, secs: i64) -> &Partition {
        let minute = if self.partitioner.timed { secs.div_euclid(60) } else { 0 };
        let current = self.current.take().filter(|(of, _)| *of == minute);
        let (_, partition) = self
            .current
            .insert(current.unwrap_or_else(|| (minute, path(self.partitioner, &self.texts, secs))));
        partition
    }
}

#[cold]
fn path(partitioner: &Partitioner, texts: &[String], secs: i64) -> Partition {
    // As `Event::time_ns` is cut, so that the header's minutes and the events agree.
    let civil = Civil::of(secs.clamp(SECS_MIN, SECS_MAX));
    let mut path = String::new();
    let number = |path: &mut String, two: u8| path.extend(two_digits(two).map(char::from));
    for (piece, text) in partitioner.pieces.iter().zip(texts) {
        match piece {
            Piece::Literal(_) | Piece::Tag | Piece::TagElement(_) => path.push_str(text),
            Piece::Year => {
                number(&mut path, (civil.year / 100) as u8);
                number(&mut path, (civil.year % 100) as u8);
            }
            Piece::Month => number(&mut path, civil.month),
            Piece::Day => number(&mut path, civil.day),
            Piece::Hour => number(&mut path, civil.hour),
            Piece::Minute => number(&mut path, civil.minute),
        }
    }
    path.into()
}

/// The pieces of one path component of a template.
fn parse(component: &str) -> Result<Vec<Piece>, TemplateError> {
    if component.is_empty() {
        return Err(TemplateError::Empty);
    }
    if component.starts_with(['.', '_']) {
        return Err(TemplateError::Hidden(component.to_owned()));
    }
    let (mut pieces, mut bytes, mut rest) = (Vec::new(), 0, component);
    while let Some(first) = rest.chars().next() {
        let (piece, len) = match first {
            '%' => (time_piece(rest)?, 2),
            '{' => tag_piece(rest)?,
            '}' => return Err(TemplateError::Placeholder("}".to_owned())),
            _ => {
                let len = rest.find(['%', '{', '}']).unwrap_or(rest.len());
                (Piece::Literal(rest[..len].to_owned()), len)
            }
        };
        bytes += match &piece {
            Piece::Literal(text) => {
                if let Some(bad) = text.chars().find(|&c| c == ':' || c.is_control()) {
                    return Err(TemplateError::Character(bad));
                }
                text.len()
            }
            Piece::Year => 4,
            Piece::Month | Piece::Day | Piece::Hour | Piece::Minute => 2,
            Piece::Tag | Piece::TagElement(_) => TAG_BYTES_MAX,
        };
        pieces.push(piece);
        rest = &rest[len..];
    }
    if bytes > COMPONENT_BYTES_MAX {
        return Err(TemplateError::Long(component.to_owned()));
    }
    Ok(pieces)
}

/// What a text that begins with `%` begins with; two bytes of it.
fn time_piece(text: &str) -> Result<Piece, TemplateError> {
    match text.as_bytes().get(1) {
        Some(b'Y') => Ok(Piece::Year),
        Some(b'm') => Ok(Piece::Month),
        Some(b'd') => Ok(Piece::Day),
        Some(b'H') => Ok(Piece::Hour),
        Some(b'M') => Ok(Piece::Minute),
        _ => Err(TemplateError::Time(text.chars().take(2).collect())),
    }
}

/// What a text that begins with `{` begins with, and how many bytes of it.
fn tag_piece(text: &str) -> Result<(Piece, usize), TemplateError> {
    let Some(end) = text.find('}') else { return Err(TemplateError::Placeholder(text.to_owned())) };
    let wrong = || TemplateError::Placeholder(text[..=end].to_owned());
    let inner = text[1..end].strip_prefix("tag").ok_or_else(wrong)?;
    if inner.is_empty() {
        return Ok((Piece::Tag, end + 1));
    }
    let digits = inner.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).ok_or_else(wrong)?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let index = digits.parse().map_err(|_| wrong())?;
    Ok((Piece::TagElement(index), end + 1))
}

/// A tag, or a piece of one, as (part of) a path component.
fn component_of(tag: &str) -> String {
    if tag.is_empty() {
        return "none".to_owned();
    }
    let mut text = String::with_capacity(tag.len());
    for (at, c) in tag.char_indices() {
        let leading = at == 0 && matches!(c, '.' | '_');
        if leading || matches!(c, '/' | ':' | '%') || c.is_control() {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                text.push_str(&format!("%{byte:02X}"));
            }
        } else {
            text.push(c);
        }
    }
    if text.len() > TAG_BYTES_MAX {
        let hash = format!("-{:016x}", xxhash_rust::xxh3::xxh3_64(tag.as_bytes()));
        let mut cut = text.floor_char_boundary(TAG_BYTES_MAX - hash.len());
        // Not within an escape: every `%` here begins one of three bytes.
        if let Some(escape) = text[..cut].rfind('%').filter(|escape| escape + 3 > cut) {
            cut = escape;
        }
        text.truncate(cut);
        text.push_str(&hash);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, tag: &str, secs: i64, expected: &str) {
        let partitioner = Partitioner::new(template).unwrap();
        assert_eq!(&*partitioner.partition_of(tag, secs), expected, "{template:?} of {tag:?}");
    }

    #[test]
    fn templates_become_paths() {
        let secs = 1_767_323_045;
        check("", "app.web", secs, "");
        check("%Y/%m/%d/%H/%M", "app.web", secs, "2026/01/02/03/04");
        check("dt=%Y-%m-%d/tag={tag}", "app.web", secs, "dt=2026-01-02/tag=app.web");
        check("{tag[0]}/{tag[1]}/{tag[2]}", "app.web", secs, "app/web/none");
        check("{tag}", "", secs, "none");
        check("{tag}", "../../etc/passwd", secs, "%2E.%2F..%2Fetc%2Fpasswd");
        check("{tag}", "_a_:%\n\u{85}é", secs, "%5Fa_%3A%25%0A%C2%85é");
        check("{tag[1]}", "a._b", secs, "%5Fb");
        check("%Y%m", "", i64::MAX, "226204");
        check("%Y%m", "", i64::MIN, "167709");
    }

    #[test]
    fn long_tags_are_cut_and_stay_apart() {
        let same = "x".repeat(200);
        check("{tag}", &same, 0, &same);
        for tag in ["x".repeat(201), "é".repeat(150), "/".repeat(70), "ab/".repeat(60)] {
            let text = component_of(&tag);
            assert!((196..=200).contains(&text.len()), "{text}");
            let (begin, hash) = text.rsplit_once('-').unwrap();
            assert_eq!(hash, format!("{:016x}", xxhash_rust::xxh3::xxh3_64(tag.as_bytes())));
            assert!(begin.split('%').skip(1).all(|rest| rest.starts_with("2F")), "a cut escape: {begin}");
        }
        assert_ne!(component_of(&"x".repeat(300)), component_of(&"x".repeat(301)));
    }

    #[test]
    fn strange_templates_are_refused() {
        use TemplateError as E;
        let refused = |template: &str| Partitioner::new(template).unwrap_err();
        assert_eq!(refused("%Y/%q"), E::Time("%q".into()));
        assert_eq!(refused("%"), E::Time("%".into()));
        assert_eq!(refused("%é"), E::Time("%é".into()));
        for bad in ["{tag", "{host}", "{tag[}", "{tag[]}", "{tag[+1]}", "{tag[99999999999999999999]}"] {
            assert_eq!(refused(bad), E::Placeholder(bad.into()));
        }
        assert_eq!(refused("a}"), E::Placeholder("}".into()));
        assert_eq!(refused("a:b"), E::Character(':'));
        assert_eq!(refused("a\nb"), E::Character('\n'));
        for bad in ["/%Y", "%Y/", "a//b", "/"] {
            assert_eq!(refused(bad), E::Empty, "{bad:?}");
        }
        assert_eq!(refused("a/../b"), E::Hidden("..".into()));
        assert_eq!(refused("_x"), E::Hidden("_x".into()));
        assert_eq!(refused("{tag}{tag}"), E::Long("{tag}{tag}".into()));
    }
}
