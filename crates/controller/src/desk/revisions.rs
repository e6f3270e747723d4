//! Revisions: made once, kept for ever.

use bytes::Bytes;
use jiff::Timestamp;
use weir_agent::talk::{pack, unpack};
use weir_topology::{Topology, parse_topology};

use super::{Act, Desk, DeskError, TEXTS_KEPT};
use crate::check::{Problem, check, worded};
use crate::diff::{self, Diff};
use crate::records::{self, REVISIONS, Revision, revision_key, text_key};
use crate::state::{Change, StateError};

/// Longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;

/// What an upload came to.
#[derive(Debug)]
pub struct Upload {
    /// The revision.
    pub revision: Revision,
    /// Whether it is new; the same text as the newest revision makes none.
    pub new: bool,
    /// What looks wrong in the text.
    pub warnings: Vec<Problem>,
}

impl Desk {
    /// Checks a text as an upload would, and keeps nothing.
    ///
    /// # Errors
    /// All problems.
    pub fn check(&self, text: &str) -> Result<Vec<Problem>, Vec<Problem>> {
        check(text, &*self.judge).map(|sound| sound.warnings)
    }

    /// Makes a revision of a text.
    ///
    /// # Errors
    /// [`DeskError::Unsound`] with all problems of the text; [`DeskError::State`].
    pub async fn upload(&self, text: &str, message: &str, author: &str) -> Result<Upload, DeskError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(DeskError::Value(format!("the message has more than {MESSAGE_BYTES_MAX} bytes")));
        }
        let warnings = self.check(text).map_err(DeskError::Unsound)?;
        let hash = weir_agent::hash(text);
        let packed = pack(text).map_err(|error| DeskError::Value(error.to_string()))?;
        let mut books = self.books().await?;
        if let Some(last) = self.revision(books.revisions).await?.filter(|last| last.hash == hash) {
            return Ok(Upload { revision: last, new: false, warnings });
        }
        let stable = books.rollout.as_ref().and_then(|rollout| rollout.stable()).map(|stable| stable.number);
        let revision = Revision {
            number: books.revisions + 1,
            hash,
            parent: stable.or((books.revisions > 0).then_some(books.revisions)),
            author: author.to_owned(),
            at: Timestamp::now(),
            message: message.to_owned(),
            bytes: text.len(),
        };
        let (key, text_key) = (revision_key(revision.number), text_key(revision.number));
        let change =
            Change::new().absent(&key).put(&key, records::written(&revision)?).put(text_key, packed.to_vec());
        let subject = format!("revision {}", revision.number);
        let act = Act { actor: author, action: "revision.create", subject, detail: message.to_owned() };
        self.commit(&mut books, change, act).await?;
        books.revisions = revision.number;
        drop(books);
        self.events.tell("revision.created", &revision.number.to_string(), message, Timestamp::now());
        Ok(Upload { revision, new: true, warnings })
    }

    /// A revision, but for its text.
    ///
    /// # Errors
    /// [`DeskError::State`].
    pub async fn revision(&self, number: u64) -> Result<Option<Revision>, DeskError> {
        Ok(records::one(self.state.as_ref(), &revision_key(number)).await?)
    }

    /// Revisions, the last first; only those before `before`, if given.
    ///
    /// # Errors
    /// [`DeskError::State`].
    pub async fn revisions(&self, before: Option<u64>, limit: usize) -> Result<Vec<Revision>, DeskError> {
        let before = before.map(revision_key);
        Ok(records::newest(self.state.as_ref(), REVISIONS, before.as_deref(), limit).await?)
    }

    /// A revision's text.
    ///
    /// # Errors
    /// [`DeskError::Missing`], [`DeskError::State`].
    pub async fn text(&self, number: u64) -> Result<String, DeskError> {
        let packed = self.packed(number).await?;
        unpack(&packed).map_err(|error| StateError::Disk(std::io::Error::other(error.to_string())).into())
    }

    /// A revision's text, as it travels.
    pub(crate) async fn packed(&self, number: u64) -> Result<Bytes, DeskError> {
        let mut texts = self.texts.lock().await;
        if let Some(text) = texts.get(&number) {
            return Ok(text.clone());
        }
        let packed = self.state.get(&text_key(number)).await?;
        let packed = Bytes::from(packed.ok_or_else(|| DeskError::Missing(format!("revision {number}")))?);
        if texts.len() >= TEXTS_KEPT
            && let Some(oldest) = texts.keys().min().copied()
        {
            texts.remove(&oldest);
        }
        texts.insert(number, packed.clone());
        Ok(packed)
    }

    /// What a revision says.
    pub(super) async fn topology(&self, number: u64) -> Result<Topology, DeskError> {
        let text = self.text(number).await?;
        let parsed = parse_topology(&text, "topology.toml").map(|(topology, _)| topology);
        // A later program may know better than the one that took it.
        parsed.map_err(|problems| DeskError::Unsound(problems.iter().map(Problem::from).collect()))
    }

    /// What revision `to` changes against `from`; 0 stands for nothing.
    ///
    /// # Errors
    /// [`DeskError::Missing`], [`DeskError::State`].
    pub async fn diff(&self, from: u64, to: u64) -> Result<Diff, DeskError> {
        let new = self.text(to).await?;
        if from == 0 {
            let text = diff::text("", &new, "nothing", &format!("revision {to}"));
            return Ok(Diff { from, to, meaning: vec!["everything comes".to_owned()], text });
        }
        let old = self.text(from).await?;
        let meaning = match (self.topology(from).await, self.topology(to).await) {
            (Ok(old), Ok(new)) => diff::meaning(&old, &new),
            (Err(error), _) | (_, Err(error)) => vec![worded(&error)],
        };
        let text = diff::text(&old, &new, &format!("revision {from}"), &format!("revision {to}"));
        Ok(Diff { from, to, meaning, text })
    }
}
