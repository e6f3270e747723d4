//! The bytes by which another life finds and fences a part of ours: text, one item on each line.

use std::sync::Arc;

use weir_model::PartId;
use weir_store::{Partition, StoreError, Token};

/// First line of a token. A reader refuses versions it does not know.
const VERSION: &str = "weir-file-1";

/// What a token says besides the part's id, which everyone who has the token has too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileToken {
    /// How the part's files end, codec included: it may be another one when the part is settled.
    pub(crate) suffix: String,
    /// The part's partitions.
    pub(crate) partitions: Vec<Partition>,
}

impl FileToken {
    pub(crate) fn encode(&self, id: &PartId) -> Token {
        let mut text = format!("{VERSION}\n{id}\n{}", self.suffix);
        for partition in &self.partitions {
            text.push('\n');
            text.push_str(partition);
        }
        Token(text.into())
    }

    pub(crate) fn decode(id: &PartId, token: &Token) -> Result<Self, StoreError> {
        let wrong = || StoreError::Token { part: id.clone() };
        let text = std::str::from_utf8(&token.0).map_err(|_| wrong())?;
        let mut lines = text.split('\n');
        if lines.next() != Some(VERSION) || lines.next() != Some(id.to_string().as_str()) {
            return Err(wrong());
        }
        let suffix = lines.next().ok_or_else(wrong)?.to_owned();
        Ok(Self { suffix, partitions: lines.map(Arc::from).collect() })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weir_model::{Incarnation, NodeId};

    use super::*;

    fn id() -> PartId {
        PartId { sink: NodeId::new("sink-1").unwrap(), incarnation: Incarnation(1), number: 2 }
    }

    #[test]
    fn what_is_encoded_decodes() {
        for partitions in [vec![], vec![Partition::from("")], vec!["a/2026".into(), "b".into()]] {
            let token = FileToken { suffix: ".jsonl".into(), partitions };
            assert_eq!(FileToken::decode(&id(), &token.encode(&id())).unwrap(), token);
        }
    }

    // These bytes lie in edges' journals: a change of them is a new version, not an edit of this test.
    #[test]
    fn version_1_is_these_bytes() {
        let token = FileToken { suffix: ".jsonl.gz".into(), partitions: vec!["a/2026".into(), "b".into()] };
        let bytes = b"weir-file-1\nsink-1~00000000000000000000000000000001~2\n.jsonl.gz\na/2026\nb";
        assert_eq!(&token.encode(&id()).0[..], bytes);
    }

    #[test]
    fn strangers_are_refused() {
        let of_another =
            FileToken { suffix: String::new(), partitions: vec![] }.encode(&PartId { number: 3, ..id() }).0;
        for stranger in [
            of_another,
            Bytes::from_static(b""),
            Bytes::from_static(b"weir-file-1\n"),
            Bytes::from_static(b"\xff"),
        ] {
            let answer = FileToken::decode(&id(), &Token(stranger.clone()));
            assert!(matches!(answer, Err(StoreError::Token { .. })), "{stranger:?}");
        }
    }
}
