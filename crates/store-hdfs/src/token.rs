//! The bytes by which another member finds and fences a part of ours, and the paths that follow from them.

use serde::{Deserialize, Serialize};
use weir_model::PartId;
use weir_store::{Partition, StoreError, Token};

/// First byte of a token. A reader refuses versions it does not know.
const VERSION: u8 = b'H';

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HdfsToken {
    /// The life's staging directory: without it, nothing of the life can be committed.
    pub(crate) staging: String,
    /// What the part's partitions lie under.
    pub(crate) root: String,
    /// How the part's files end, codec included.
    pub(crate) suffix: String,
    /// The part's partitions.
    pub(crate) partitions: Vec<Partition>,
}

impl HdfsToken {
    pub(crate) fn encode(&self) -> Token {
        let mut bytes = vec![VERSION];
        rmp_serde::encode::write(&mut bytes, self).expect("plain data, and a Vec never refuses a write");
        Token(bytes.into())
    }

    pub(crate) fn decode(part: &PartId, token: &Token) -> Result<Self, StoreError> {
        match token.0.split_first() {
            Some((&VERSION, rest)) => rmp_serde::from_slice(rest).ok(),
            _ => None,
        }
        .ok_or_else(|| StoreError::Token { part: part.clone() })
    }

    /// Where the events of `id` in `partition` are once they are committed.
    pub(crate) fn path(&self, id: &PartId, partition: &str) -> String {
        format!("{}/{id}{}", directory(&self.root, partition), self.suffix)
    }
}

/// The directory of a partition's files.
pub(crate) fn directory(root: &str, partition: &str) -> String {
    let root = root.trim_end_matches('/');
    if partition.is_empty() { root.to_owned() } else { format!("{root}/{partition}") }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weir_model::{Incarnation, NodeId};

    use super::*;

    fn part() -> PartId {
        PartId { sink: NodeId::new("sink-1").unwrap(), incarnation: Incarnation(1), number: 2 }
    }

    fn token() -> HdfsToken {
        HdfsToken {
            staging: "/s".into(),
            root: "/r/".into(),
            suffix: ".jsonl".into(),
            partitions: vec!["a/b".into()],
        }
    }

    #[test]
    fn what_is_encoded_decodes_and_strangers_are_refused() {
        assert_eq!(HdfsToken::decode(&part(), &token().encode()).unwrap(), token());
        // These bytes lie in edges' journals: a change of them is a new version, not an edit of this test.
        assert_eq!(&token().encode().0[..], b"H\x94\xa2/s\xa3/r/\xa6.jsonl\x91\xa3a/b");
        for stranger in [&b""[..], b"H", b"K\x94\xa2/s\xa3/r/\xa6.jsonl\x91\xa3a/b", b"H\x91\x01"] {
            let refused = HdfsToken::decode(&part(), &Token(Bytes::copy_from_slice(stranger)));
            assert!(matches!(refused, Err(StoreError::Token { .. })), "{stranger:?}");
        }
    }

    #[test]
    fn paths_follow_from_the_part() {
        let id = part();
        assert_eq!(token().path(&id, "a/b"), format!("/r/a/b/{id}.jsonl"));
        assert_eq!(token().path(&id, ""), format!("/r/{id}.jsonl"));
        assert_eq!(directory("/", "a"), "/a");
    }
}
