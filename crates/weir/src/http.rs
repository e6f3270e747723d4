//! A GET to a node's own pages, as its commands need it: plain HTTP/1.0, so that the answer ends with the connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail};

/// How long a node may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Most bytes of an answer's head.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// The body of an answer.
pub(crate) fn get(address: &str, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    open(address, path, Some(ANSWER_MAX))?.read_to_end(&mut body)?;
    Ok(body)
}

/// The body of an answer, to be read as it comes. `silence_max` is how long the node may say nothing.
pub(crate) fn open(address: &str, path: &str, silence_max: Option<Duration>) -> anyhow::Result<impl BufRead> {
    let to = || format!("no node answers at {address}; it should be where the node serves its metrics");
    let mut socket = TcpStream::connect(address).with_context(to)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    write!(socket, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").with_context(to)?;
    let timeouts = socket.try_clone()?;
    let mut answer = BufReader::new(socket);
    let mut line = String::new();
    let mut head = answer.by_ref().take(HEAD_BYTES_MAX);
    head.read_line(&mut line).with_context(to)?;
    let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
    while line.trim_end() != "" {
        line.clear();
        head.read_line(&mut line).with_context(to)?;
    }
    if status != "200" {
        let mut reason = String::new();
        answer.by_ref().take(HEAD_BYTES_MAX).read_to_string(&mut reason)?;
        bail!("{address} answers {status} to {path}: {}", reason.trim());
    }
    timeouts.set_read_timeout(silence_max)?;
    Ok(answer)
}

/// Writes a text into a query, so that nothing of it is taken for syntax.
pub(crate) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_query_keeps_its_text() {
        assert_eq!(super::encoded("app.{a,b} **&x=ö"), "app.%7Ba%2Cb%7D%20%2A%2A%26x%3D%C3%B6");
    }
}
