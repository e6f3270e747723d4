//! Keeps secrets out of revisions: a topology names the file or the variable that holds one.
//!
//! Revisions are kept for ever and shown to every viewer, so a text with a secret in it is refused. It is recognised
//! by its key: a name that ends like one of a secret, and text as its value.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What the name of a secret ends with.
const ENDINGS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "secret",
    "secret_key",
    "shared_key",
    "private_key",
    "access_key",
    "token",
    "jaas.config",
    "key.pem",
];

/// A secret that stands in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clear {
    /// Its key.
    pub key: String,
    /// Where its value is, in bytes of the text.
    pub span: Range<usize>,
}

/// All secrets that stand in a topology's text. A text that is no TOML has none: other checks refuse it.
#[must_use]
pub fn clear(text: &str) -> Vec<Clear> {
    let (root, _) = DeTable::parse_recoverable(text);
    let mut found = Vec::new();
    table(root.get_ref(), "", &mut found);
    found.sort_by_key(|clear| clear.span.start);
    found
}

fn table(table: &DeTable<'_>, path: &str, found: &mut Vec<Clear>) {
    for (key, value) in table {
        let key =
            if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
        self::value(&key, value, found);
    }
}

fn value(key: &str, value: &Spanned<DeValue<'_>>, found: &mut Vec<Clear>) {
    match value.get_ref() {
        DeValue::Table(inner) => table(inner, key, found),
        DeValue::Array(items) => items.iter().for_each(|item| self::value(key, item, found)),
        DeValue::String(text) if !text.is_empty() && names_secret(key) => {
            found.push(Clear { key: key.to_owned(), span: value.span() });
        }
        _ => {}
    }
}

fn names_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "_");
    ENDINGS.iter().any(|ending| key.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_recognised_by_its_key() {
        let keys = |text: &str| clear(text).into_iter().map(|clear| clear.key).collect::<Vec<_>>();
        let table: &[(&str, &[&str])] = &[
            ("options = { \"sasl.password\" = \"x\" }", &["options.sasl.password"]),
            ("[a]\nssl-key-password = 'x'\nshared_key = \"k\"", &["a.ssl-key-password", "a.shared_key"]),
            ("[[u]]\nname = \"n\"\nPassword = \"p\"", &["u.Password"]),
            ("\"sasl.jaas.config\" = \"Module required password=x\"", &["sasl.jaas.config"]),
            // References, and what is no secret.
            ("password = { env = \"PW\" }\ntoken = { file = \"/run/t\" }", &[]),
            ("key = \"tag\"\nkey_file = \"x.key\"\nname = \"password\"\npassword = \"\"", &[]),
            ("not toml at all", &[]),
        ];
        for (text, expected) in table {
            assert_eq!(keys(text), *expected, "{text}");
        }
        let text = "a = 1\npassword = \"x\"\n";
        assert_eq!(&text[clear(text)[0].span.clone()], "\"x\"");
    }
}
