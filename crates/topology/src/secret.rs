//! Secrets: a file says where one comes from, and no message ever says what it is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::read::{Value, Wrong};

/// Where a secret is found. Printing it tells the place, never the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// In the text of the topology itself.
    Given(String),
    /// In an environment variable of the process that needs it.
    Env(String),
    /// In a file; a line break at its end does not count.
    File(PathBuf),
}

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// No such variable, or one that is not text.
    #[error(
        "the secret is to come from the environment variable {name}, which is {problem}; set it for this process"
    )]
    Env {
        /// The variable.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file does not read.
    #[error("the secret is to come from the file {}, which cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// There is nothing in it.
    #[error("the secret from {0} is empty")]
    Empty(String),
}

impl Secret {
    /// Fetches the secret, from this process's environment or disk.
    ///
    /// # Errors
    /// [`SecretError`]: its place does not exist, cannot be read, or is empty.
    pub fn read(&self) -> Result<String, SecretError> {
        let secret = match self {
            Self::Given(secret) => secret.clone(),
            Self::Env(name) => std::env::var(name).map_err(|error| SecretError::Env {
                name: name.clone(),
                problem: match error {
                    std::env::VarError::NotPresent => "not set",
                    std::env::VarError::NotUnicode(_) => "not text",
                },
            })?,
            Self::File(path) => {
                let mut text = std::fs::read_to_string(path)
                    .map_err(|source| SecretError::File { path: path.clone(), source })?;
                text.truncate(text.trim_end_matches(['\r', '\n']).len());
                text
            }
        };
        if secret.is_empty() { Err(SecretError::Empty(format!("{self:?}"))) } else { Ok(secret) }
    }

    /// Makes a relative path of a file one that starts at `dir`.
    pub(crate) fn rebase(&mut self, dir: &Path) {
        if let Self::File(path) = self {
            *path = dir.join(&*path);
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.write_str("(secret)"),
            Self::Env(name) => write!(f, "env {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

impl Value for Secret {
    const FORM: &str = r#"{"anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"env": {"type": "string"}}, "required": ["env"], "additionalProperties": false},
        {"type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"], "additionalProperties": false}
    ]}"#;

    fn from_text(text: &str) -> Result<Self, Wrong> {
        match text {
            "" => Err(("an empty secret".to_owned(), None)),
            _ => Ok(Self::Given(text.to_owned())),
        }
    }

    fn from_number(_: i64) -> Result<Self, Wrong> {
        // The usual message would show it.
        Err(("a secret is text".to_owned(), Some("write it in quotes".to_owned())))
    }

    fn from_table(table: &BTreeMap<String, String>) -> Result<Self, Wrong> {
        let mut pairs = table.iter().map(|(key, value)| (key.as_str(), value));
        match (pairs.next(), pairs.next()) {
            (Some(("env", name)), None) if !name.is_empty() => Ok(Self::Env(name.clone())),
            (Some(("file", path)), None) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => {
                let hint = "write { env = \"NAME\" } or { file = \"path\" }".to_owned();
                Err(("a secret's table names a variable or a file".to_owned(), Some(hint)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_and_never_printed() {
        let dir = std::env::temp_dir().join(format!("weir-secret-{}", std::process::id()));
        std::fs::write(&dir, "hush\n").unwrap();
        let file = Secret::File(dir.clone());
        assert_eq!(file.read().unwrap(), "hush");
        std::fs::write(&dir, "\n").unwrap();
        assert!(matches!(file.read(), Err(SecretError::Empty(_))));
        std::fs::remove_file(&dir).unwrap();
        assert!(matches!(file.read(), Err(SecretError::File { .. })));
        assert!(matches!(Secret::Env("WEIR_NO_SUCH_NAME".into()).read(), Err(SecretError::Env { .. })));
        assert_eq!(Secret::Given("hush".into()).read().unwrap(), "hush");
        assert_eq!(format!("{:?}", Secret::Given("hush".into())), "(secret)");
        assert_eq!(format!("{:?}", Secret::Env("NAME".into())), "env NAME");
    }
}
