//! Tokens: made, revoked, and recognised.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jiff::Timestamp;

use super::{Act, Desk, DeskError, TOKENS_MAX};
use crate::records::{self, token_key};
use crate::state::{Change, StateError};
use crate::tokens::{self, Role, Token};

/// Longest name of a token, in bytes.
const NAME_BYTES_MAX: usize = 100;

impl Desk {
    /// The token of that text, if it is one.
    #[must_use]
    pub fn recognise(&self, text: &str) -> Option<Token> {
        let tokens = self.tokens.read();
        tokens.get(tokens::id(text)?).filter(|token| token.is(text)).cloned()
    }

    /// All tokens.
    #[must_use]
    pub fn tokens(&self) -> Vec<Token> {
        self.tokens.read().values().cloned().collect()
    }

    /// Makes a token, and gives its text, once.
    ///
    /// # Errors
    /// [`DeskError::TokensFull`], [`DeskError::Value`], [`DeskError::State`].
    pub async fn create_token(
        &self,
        name: &str,
        role: Role,
        actor: &str,
    ) -> Result<(Token, String), DeskError> {
        if name.trim().is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(DeskError::Value(format!(
                "a token's name has 1 to {NAME_BYTES_MAX} bytes, all printable"
            )));
        }
        let (token, text) = Token::create(name, role, Timestamp::now());
        self.keep_token(&token, actor).await?;
        Ok((token, text))
    }

    async fn keep_token(&self, token: &Token, actor: &str) -> Result<(), DeskError> {
        let mut books = self.books().await?;
        if self.tokens.read().len() >= TOKENS_MAX {
            return Err(DeskError::TokensFull);
        }
        let key = token_key(&token.id);
        let change = Change::new().absent(&key).put(&key, records::written(token)?);
        let subject = format!("token {} of {}", token.id, token.name);
        let act = Act {
            actor,
            action: "token.create",
            subject,
            detail: format!("{:?}", token.role).to_lowercase(),
        };
        self.commit(&mut books, change, act).await?;
        self.tokens.write().insert(token.id.clone(), token.clone());
        self.events.tell("token.created", &token.id, token.name.as_str(), token.created);
        Ok(())
    }

    /// Revokes a token, from now on.
    ///
    /// # Errors
    /// [`DeskError::Missing`], [`DeskError::LastAdmin`], [`DeskError::State`].
    pub async fn revoke_token(&self, id: &str, actor: &str) -> Result<(), DeskError> {
        let mut books = self.books().await?;
        let all = self.tokens();
        let missing = || DeskError::Missing(format!("token {id}"));
        let token = all.iter().find(|token| token.id == id).ok_or_else(missing)?;
        let admins = all.iter().filter(|token| token.role == Role::Admin).count();
        if token.role == Role::Admin && admins == 1 {
            return Err(DeskError::LastAdmin);
        }
        let change = Change::new().remove(token_key(id));
        let subject = format!("token {id} of {}", token.name);
        let act = Act { actor, action: "token.revoke", subject, detail: String::new() };
        self.commit(&mut books, change, act).await?;
        self.tokens.write().remove(id);
        self.events.tell("token.revoked", id, token.name.as_str(), Timestamp::now());
        Ok(())
    }

    /// Makes the first admin token, if there is none, and writes it to `path`, which only its owner can read. Says
    /// whether it did.
    ///
    /// # Errors
    /// [`DeskError::State`], also when the file cannot be written: then there is no token either.
    pub async fn first_token(&self, path: &Path) -> Result<bool, DeskError> {
        self.opened().await?;
        if self.tokens().iter().any(|token| token.role == Role::Admin) {
            return Ok(false);
        }
        let (token, text) = Token::create("first admin", Role::Admin, Timestamp::now());
        // Written first: a token that is kept and that nobody has would lock everybody out.
        write(path, &text).map_err(StateError::Disk)?;
        self.keep_token(&token, "controller").await?;
        Ok(true)
    }
}

/// Writes a new file for its owner alone. One that is there may be readable by others: it goes.
fn write(path: &Path, text: &str) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}
