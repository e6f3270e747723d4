//! One match pattern, as Fluentd writes it, compiled to a small program that runs over a tag in linear time.
//!
//! The grammar is Fluentd's ("How match patterns work" in its documentation, `lib/fluent/match.rb` in its
//! source). Tags come from the network, so there is no backtracking: all states of the program advance over
//! the tag together, and no tag costs more than its length times the pattern's.
//! Left out on purpose: `/regular expressions/`, which are refused, and negation, which Fluentd lacks too.

use std::fmt;

/// Longest pattern in bytes; a longer one is refused. It bounds what one tag can cost.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// What fills the wildcards of [`Pattern::samples`]: one character that no pattern holds.
const FILLER: &[u8] = b"\0";

/// More dots than the patterns that people write: only `**` takes a tag with so many.
const DOTS_DEEP: usize = 40;

/// Most tags that are tried to sample a pattern.
const SAMPLES_MAX: usize = 256;

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing there.
    #[error("a pattern must not be empty; `**` matches every tag")]
    Empty,
    /// Longer than [`PATTERN_BYTES_MAX`].
    #[error("a pattern has at most {PATTERN_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// It starts with a slash: in Fluentd a regular expression.
    #[error(
        "regular expressions are not supported; write `*`, `**` or `{{a,b}}` (a tag's own leading '/' is written `\\/`)"
    )]
    Regex,
    /// A `{` that nothing closes, at this byte.
    #[error("the '{{' at byte {0} is never closed")]
    Unclosed(usize),
    /// A `}` that nothing opened, at this byte.
    #[error("the '}}' at byte {0} closes nothing")]
    Unopened(usize),
    /// A backslash at the very end.
    #[error("the backslash at the end escapes nothing")]
    Escape,
}

/// One compiled pattern.
///
/// `*` matches within one tag part, `**` any number of parts (`a.**` matches `a`, `a.b` and `a.b.c`, `**.x`
/// matches `x` and `a.b.x`), `{a,b}` either pattern, and a backslash takes the next character literally.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: Box<str>,
    /// The bytes that every matching tag starts with: the program's leading [`Op::Byte`]s.
    lead: Box<[u8]>,
    program: Box<[Op]>,
}

/// One step of a program. A state is an index into it; the index behind the last step means "matched".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    /// Takes exactly this byte.
    Byte(u8),
    /// `*`: takes any bytes but dots, or none.
    WithinPart,
    /// `**`: takes any bytes, or none.
    Anything,
    /// Holds where a part ends: before a dot or at the tag's end. It stands for the dot of `a.**`.
    PartEnd,
    /// Goes on, and where the tag begins also to that step: the dot of `**.x` is not needed there.
    SkipAtStart(usize),
    /// Goes on, and also to that step.
    Fork(usize),
    /// Goes to that step only.
    Jump(usize),
}

/// What a router can look up instead of running the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape<'a> {
    /// Exactly this tag.
    Exact(&'a str),
    /// `literal.**`: this tag and everything below it. Never empty.
    Under(&'a str),
    /// Anything else; each matching tag is this one or lies below it. Empty when nothing is known.
    Odd(&'a str),
}

impl Pattern {
    /// Compiles one pattern.
    ///
    /// # Errors
    /// [`PatternError`] when the text is empty, too long, a regular expression, or its braces do not pair.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        match text.as_bytes() {
            [] => Err(PatternError::Empty),
            bytes if bytes.len() > PATTERN_BYTES_MAX => Err(PatternError::TooLong(bytes.len())),
            [b'/', ..] => Err(PatternError::Regex),
            bytes => {
                let program = compile(bytes)?;
                let lead = program.iter().map_while(|op| if let Op::Byte(b) = op { Some(*b) } else { None });
                Ok(Self { text: text.into(), lead: lead.collect(), program: program.into() })
            }
        }
    }

    /// Whether the pattern matches this whole tag.
    #[must_use]
    pub fn matches(&self, tag: &str) -> bool {
        let tag = tag.as_bytes();
        tag.starts_with(&self.lead) && self.run(tag)
    }

    fn run(&self, tag: &[u8]) -> bool {
        let matched = self.program.len();
        let mut states = States::new(matched + 1);
        let mut next = States::new(matched + 1);
        states.enter(&self.program, self.lead.len(), tag, self.lead.len());
        for at in self.lead.len()..tag.len() {
            for &state in &states.list {
                let onward = match self.program.get(state) {
                    Some(&Op::Byte(byte)) if byte == tag[at] => state + 1,
                    Some(Op::WithinPart) if tag[at] != b'.' => state,
                    Some(Op::Anything) => state,
                    _ => continue,
                };
                next.enter(&self.program, onward, tag, at + 1);
            }
            if next.list.is_empty() {
                return false;
            }
            std::mem::swap(&mut states, &mut next);
            next.clear();
        }
        states.list.contains(&matched)
    }

    /// Tags that stand for all that the pattern matches: each wildcard is filled with text that no other pattern
    /// spells out, so another pattern takes a sample by a wildcard of its own or not at all. Empty when there would
    /// be too many.
    pub(crate) fn samples(&self) -> Vec<String> {
        let (mut samples, mut open) = (Vec::new(), vec![(0, Vec::new())]);
        while let Some((state, tag)) = open.pop() {
            if samples.len() + open.len() > SAMPLES_MAX {
                return Vec::new();
            }
            let mut go = |state, more: &[u8]| open.push((state, [&tag, more].concat()));
            match self.program.get(state) {
                Some(&Op::Byte(byte)) => go(state + 1, &[byte]),
                Some(Op::WithinPart) => go(state + 1, FILLER),
                Some(Op::Anything) => {
                    let deep = [b".", FILLER].concat().repeat(DOTS_DEEP);
                    for more in [b"".as_slice(), FILLER, b".\0", b"\0.\0", b".\0.\0", &deep, &deep[1..]] {
                        go(state + 1, more);
                    }
                }
                Some(Op::PartEnd) => go(state + 1, b""),
                Some(&Op::SkipAtStart(other) | &Op::Fork(other)) => {
                    go(state + 1, b"");
                    go(other, b"");
                }
                Some(&Op::Jump(other)) => go(other, b""),
                None => samples.extend(String::from_utf8(tag)),
            }
        }
        // Not every filling suits every place: what `.**` begins with must be a dot.
        samples.retain(|tag| self.matches(tag));
        samples
    }

    pub(crate) fn shape(&self) -> Shape<'_> {
        // A lead ends where a character ends, for only ASCII ends it; were it otherwise, nothing would be known.
        let lead = std::str::from_utf8(&self.lead).unwrap_or_default();
        match &self.program[self.lead.len()..] {
            [] => Shape::Exact(lead),
            // Below an empty first part (`.**`) is not below everything, which is what an empty prefix means.
            [Op::PartEnd, Op::Anything] if !lead.is_empty() => Shape::Under(lead),
            [Op::PartEnd, ..] => Shape::Odd(lead),
            _ => Shape::Odd(lead.rfind('.').map_or("", |dot| &lead[..dot])),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An open `{`: where it stands in the text, its latest fork, and the jumps from the ends of its alternatives.
struct Open {
    at: usize,
    fork: usize,
    jumps: Vec<usize>,
}

fn compile(text: &[u8]) -> Result<Vec<Op>, PatternError> {
    let mut ops = Vec::with_capacity(text.len());
    let mut open: Vec<Open> = Vec::new();
    // A dot waits for what follows it: before `**` it is not required.
    let mut dot = false;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with(b"**") {
            if std::mem::take(&mut dot) {
                ops.push(Op::PartEnd);
            }
            at += 2;
            if text.get(at) == Some(&b'.') {
                at += 1;
                ops.push(Op::SkipAtStart(ops.len() + 3));
                ops.extend([Op::Anything, Op::Byte(b'.')]);
            } else {
                ops.push(Op::Anything);
            }
            continue;
        }
        if std::mem::take(&mut dot) {
            ops.push(Op::Byte(b'.'));
        }
        match (text[at], open.last_mut()) {
            (b'.', _) => dot = true,
            (b'*', _) => ops.push(Op::WithinPart),
            (b'\\', _) => {
                at += 1;
                ops.push(Op::Byte(*text.get(at).ok_or(PatternError::Escape)?));
            }
            (b'{', _) => {
                open.push(Open { at, fork: ops.len(), jumps: Vec::new() });
                ops.push(Op::Fork(0));
            }
            (b',', Some(braces)) => {
                braces.jumps.push(ops.len());
                ops.push(Op::Jump(0));
                ops[braces.fork] = Op::Fork(ops.len());
                braces.fork = ops.len();
                ops.push(Op::Fork(0));
            }
            (b'}', _) => {
                let braces = open.pop().ok_or(PatternError::Unopened(at))?;
                // Behind the last alternative there is none to fork to.
                ops[braces.fork] = Op::Jump(braces.fork + 1);
                let end = ops.len();
                for jump in braces.jumps {
                    ops[jump] = Op::Jump(end);
                }
            }
            (literal, _) => ops.push(Op::Byte(literal)),
        }
        at += 1;
    }
    if dot {
        ops.push(Op::Byte(b'.'));
    }
    open.last().map_or(Ok(ops), |braces| Err(PatternError::Unclosed(braces.at)))
}

/// A set of states, in the order they were entered.
struct States {
    list: Vec<usize>,
    entered: Vec<bool>,
}

impl States {
    fn new(states: usize) -> Self {
        Self { list: Vec::new(), entered: vec![false; states] }
    }

    fn clear(&mut self) {
        for state in self.list.drain(..) {
            self.entered[state] = false;
        }
    }

    /// Adds `state` and every state that is reached from it without taking a byte, before `tag[at]`.
    fn enter(&mut self, program: &[Op], state: usize, tag: &[u8], at: usize) {
        let mut todo = self.list.len();
        self.add(state);
        while let Some(&state) = self.list.get(todo) {
            todo += 1;
            match program.get(state) {
                Some(Op::WithinPart | Op::Anything) => self.add(state + 1),
                Some(Op::PartEnd) if matches!(tag.get(at), None | Some(b'.')) => self.add(state + 1),
                Some(&Op::SkipAtStart(other)) => {
                    self.add(state + 1);
                    if at == 0 {
                        self.add(other);
                    }
                }
                Some(&Op::Fork(other)) => {
                    self.add(state + 1);
                    self.add(other);
                }
                Some(&Op::Jump(other)) => self.add(other),
                _ => {}
            }
        }
    }

    fn add(&mut self, state: usize) {
        if !std::mem::replace(&mut self.entered[state], true) {
            self.list.push(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_match_as_in_fluentd() {
        // Pattern, tags that match, tags that do not.
        let table: &[(&str, &[&str], &[&str])] = &[
            // From Fluentd's documentation.
            ("a.*", &["a.b", "a."], &["a", "a.b.c", "b.a", "xa.b"]),
            ("a.**", &["a", "a.b", "a.b.c", "a."], &["ab", "ab.c", "b.a", ""]),
            ("{a,b}", &["a", "b"], &["c", "ab", "a,b", "{a,b}"]),
            ("a.{b,c}.*", &["a.b.x", "a.c.x"], &["a.b", "a.d.x", "a.b.x.y"]),
            ("a.{b,c}.**", &["a.b", "a.c", "a.c.x.y"], &["a.d", "a.cd", "a"]),
            ("*a*", &["a", "ba", "ac", "bac"], &["b", "b.a"]),
            ("a.{b,c.**}", &["a.b", "a.c", "a.c.d", "a.c.d.e"], &["a.b.d", "a", "a.cd"]),
            ("**", &["", "a", "a.b.c"], &[]),
            ("a", &["a"], &["b", "aa", "a.b", ""]),
            ("a.b", &["a.b"], &["a", "a.c", "aXb", "a.b.c"]),
            // Stars in every place.
            ("*", &["a", "b", ""], &["a.b"]),
            ("a*", &["a", "ab"], &["b", "ba", "a.b"]),
            ("*a", &["a", "ca"], &["ac", "b.a"]),
            ("a*b", &["ab", "axb"], &["a.b", "abc"]),
            ("*.b", &["a.b", ".b"], &["b", "a.b.c", "x.a.b"]),
            ("*.*", &["a.b"], &["a", "a.b.c"]),
            ("**.b", &["b", "a.b", "a.b.b", "x.y.b"], &["ab", "a.xb", "b.c"]),
            ("*.**", &["a", "a.b", "a.b.c"], &[]),
            ("**.*.*", &["a.b", "a.b.c"], &["a"]),
            ("a.**.b", &["a.b", "a.x.b", "a.x.y.b"], &["ab", "a", "b", "a.xb", "a.b.c"]),
            ("a.**.b.**", &["a.b", "a.x.b.y", "a.b.b.c"], &["a", "a.c"]),
            ("**.a.**", &["a", "x.a", "a.x", "x.a.y"], &["xa", "x.ay", "b"]),
            ("{a.*,b}.c", &["a.x.c", "b.c"], &["a.c", "x.b.c", "a.x"]),
            ("a.{**,b}", &["a.", "a.b", "a.x.y"], &["a"]),
            // Braces within a part, nested, empty, and with a wildcard beside them.
            ("sys.{a,b*}", &["sys.a", "sys.b", "sys.bcd"], &["sys.ab", "sys.b.c", "sys."]),
            ("app-{1,2}x", &["app-1x", "app-2x"], &["app-1", "app-3x", "app-12x"]),
            ("{a,{b,c.{d,e}}}.z", &["a.z", "b.z", "c.d.z", "c.e.z"], &["c.z", "d.z"]),
            ("a{,b}", &["a", "ab"], &["b", "abb"]),
            ("{a,b}{c,d}", &["ac", "bd"], &["ab", "a", "acd", "aac"]),
            ("x{a}", &["xa"], &["x", "a", "xxa"]),
            ("{a.**,**.z}", &["a", "a.b", "z", "b.z"], &["b", "az"]),
            ("a.{b.,c}d", &["a.b.d", "a.cd"], &["a.bd"]),
            // Literals: what a regular expression would take for an operator, escapes, other alphabets.
            ("a+b(c)?.$^|[d]", &["a+b(c)?.$^|[d]"], &["aab"]),
            ("a,b", &["a,b"], &["a", "b"]),
            (r"a\*\{b\,c\}", &["a*{b,c}"], &["axb"]),
            (r"\/var/log", &["/var/log"], &["var/log"]),
            ("größe.*", &["größe.m"], &["grösse.m"]),
            ("*.é", &["ü.é", "日本.é"], &["é"]),
            ("a.", &["a."], &["a"]),
            // Beside other characters `**` takes any text, dots included.
            ("**a", &["a", "ba", "b.a", "c.ba"], &["ab", "a.b"]),
            ("a**", &["a", "ab", "a.b", "ab.c"], &["b"]),
            ("***", &["", "a", "a.b"], &[]),
            ("a.**b", &["a.b", "a.xb", "a.x.yb"], &["ab", "a.bc"]),
        ];
        for (text, yes, no) in table {
            let pattern = Pattern::parse(text).unwrap();
            for tag in *yes {
                assert!(pattern.matches(tag), "{text} should match {tag:?}");
            }
            for tag in *no {
                assert!(!pattern.matches(tag), "{text} should not match {tag:?}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let refusal = |text: &str| Pattern::parse(text).unwrap_err();
        assert_eq!(refusal(""), PatternError::Empty);
        assert_eq!(refusal("/a.*/"), PatternError::Regex);
        assert!(refusal("/a.*/").to_string().contains("`{a,b}`"));
        assert_eq!(refusal("/a"), PatternError::Regex);
        assert_eq!(refusal("a.{b,{c}"), PatternError::Unclosed(2));
        assert_eq!(refusal("a.b}"), PatternError::Unopened(3));
        assert_eq!(refusal("a\\"), PatternError::Escape);
        assert_eq!(refusal(&"a".repeat(PATTERN_BYTES_MAX + 1)), PatternError::TooLong(PATTERN_BYTES_MAX + 1));
    }

    #[test]
    fn shapes_tell_what_can_be_looked_up() {
        let table = [
            ("a.b", Shape::Exact("a.b")),
            (r"a\*", Shape::Exact("a*")),
            ("a.b.**", Shape::Under("a.b")),
            ("a.b.*", Shape::Odd("a.b")),
            ("a.b*", Shape::Odd("a")),
            ("a.**.b", Shape::Odd("a")),
            ("a**", Shape::Odd("")),
            (".**", Shape::Odd("")),
            ("**", Shape::Odd("")),
            ("{a,b}", Shape::Odd("")),
        ];
        for (text, shape) in table {
            assert_eq!(Pattern::parse(text).unwrap().shape(), shape, "{text}");
        }
    }

    // A backtracking matcher would not come back from this one.
    #[test]
    fn a_hostile_tag_costs_its_length_only() {
        let pattern = Pattern::parse(&"**a".repeat(100)).unwrap();
        assert!(!pattern.matches(&format!("{}b", "a".repeat(2000))));
        assert!(pattern.matches(&"a".repeat(2000)));
    }
}
