//! Tokens of the API: who may do what. Only a token's hash is kept.
//!
//! A token is `weir_<id>_<secret>`, the secret 32 random bytes. With that much chance in it, SHA-256 is as good at rest
//! as a slow hash, which exists to protect what people choose.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

/// What a token may do; each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Make revisions and roll them out.
    Operator,
    /// Make and revoke tokens.
    Admin,
}

/// A token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The part of the token that is no secret.
    pub id: String,
    /// Whose it is: what the audit log and revisions name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created: Timestamp,
    /// SHA-256 of the whole token, in hex.
    pub hash: String,
}

impl Token {
    /// A new token, and its text, which is nowhere else.
    #[must_use]
    pub fn create(name: &str, role: Role, now: Timestamp) -> (Self, String) {
        let id = format!("{:012x}", rand::random::<u64>() >> 16);
        let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let text = format!("weir_{id}_{secret}");
        let hash = hash(&text);
        (Self { id, name: name.to_owned(), role, created: now, hash }, text)
    }

    /// Whether `text` is this token, in a time that tells nothing.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        self.hash.as_bytes().ct_eq(hash(text).as_bytes()).into()
    }
}

/// The id in a token's text; none if it is no token.
#[must_use]
pub fn id(text: &str) -> Option<&str> {
    let (id, secret) = text.strip_prefix("weir_")?.split_once('_')?;
    (id.len() == 12 && secret.len() == 43).then_some(id)
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_text_alone() {
        let (token, text) = Token::create("ada", Role::Operator, Timestamp::UNIX_EPOCH);
        let (other, other_text) = Token::create("ada", Role::Operator, Timestamp::UNIX_EPOCH);
        assert_eq!(id(&text), Some(token.id.as_str()));
        assert!(token.is(&text) && other.is(&other_text));
        assert!(!token.is(&other_text) && !token.is("") && !token.is(&text[..text.len() - 1]));
        let kept = serde_json::to_string(&token).unwrap();
        let secret = text.splitn(3, '_').nth(2).unwrap();
        assert!(!kept.contains(&secret[..8]) && !format!("{token:?}").contains(&secret[..8]));
        for no in ["", "weir_", "weir_x_y", "Bearer", &text[5..]] {
            assert_eq!(id(no), None, "{no}");
        }
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }
}
