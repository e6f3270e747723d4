//! The bytes by which another member finds and fences a part of ours.

use serde::{Deserialize, Serialize};
use weir_model::PartId;
use weir_store::{StoreError, Token};

/// First byte of a token. A reader refuses versions it does not know.
const VERSION: u8 = b'K';

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KafkaToken {
    /// The id whose takeover fences the sink; none where parts are not transactions.
    pub(crate) transactional_id: Option<String>,
    /// Where the part's record will be, if it is committed.
    pub(crate) commit_topic: String,
    /// The record cannot lie before this offset. An offset, not a time: clocks jump.
    pub(crate) from: i64,
}

impl KafkaToken {
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
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weir_model::{Incarnation, NodeId};

    use super::*;

    #[test]
    fn what_is_encoded_decodes_and_strangers_are_refused() {
        let part = PartId { sink: NodeId::new("sink-1").unwrap(), incarnation: Incarnation(1), number: 2 };
        let token = KafkaToken { transactional_id: Some("g/s".into()), commit_topic: "c".into(), from: 9 };
        assert_eq!(KafkaToken::decode(&part, &token.encode()).unwrap(), token);
        // These bytes lie in edges' journals: a change of them is a new version, not an edit of this test.
        assert_eq!(&token.encode().0[..], b"K\x93\xa3g/s\xa1c\x09");
        for stranger in [&b""[..], b"K", b"H\x93\xa3g/s\xa1c\x09", b"K\x91\x01"] {
            let refused = KafkaToken::decode(&part, &Token(Bytes::copy_from_slice(stranger)));
            assert!(matches!(refused, Err(StoreError::Token { .. })), "{stranger:?}");
        }
    }
}
