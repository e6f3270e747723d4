//! What a topology's text is called: the same text has the same name everywhere.

use sha2::{Digest, Sha256};

/// Digits of a revision's name: 64 bits, so that no two texts of one cluster's life share one.
const DIGITS: usize = 16;

/// The name of a topology's text: the first digits of its SHA-256, in hexadecimal.
#[must_use]
pub fn revision(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().flat_map(|byte| [byte >> 4, byte & 15]).take(DIGITS).map(digit).collect()
}

fn digit(value: u8) -> char {
    char::from_digit(value.into(), 16).unwrap_or('0')
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_revision_is_the_head_of_the_sha_256_of_its_text() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(super::revision("abc"), "ba7816bf8f01cfea");
    }
}
