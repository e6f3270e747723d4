//! Events in HDFS: a directory tree, read as [`super::files`] reads a local one.

use std::io::{self, Read};

use anyhow::{Context, bail};
use bytes::{Buf, Bytes};
use hdfs_native::{Client, ClientBuilder, HdfsError, file::FileReader};
use tokio::runtime::Runtime;

use super::{
    files::{Form, is_hidden, lines},
    judge::Judge,
};

/// Bytes asked for at once.
const READ_BYTES: usize = 1 << 20;

/// Shows all events below `url` (`hdfs://host:port/directory`) to `judge`; none if it is `missing_ok` and not there.
///
/// # Errors
/// Something cannot be read; `NotFound` when it went away meanwhile, which is worth another try.
pub(crate) fn read(url: &str, missing_ok: bool, judge: &mut Judge<'_>) -> anyhow::Result<()> {
    let (cluster, root) = split(url)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = {
        let _guard = runtime.enter();
        ClientBuilder::new().with_url(cluster).build().context("cannot make an HDFS client")?
    };
    if missing_ok && !runtime.block_on(is_there(&client, root)).with_context(|| root.to_owned())? {
        return Ok(());
    }
    let mut found = runtime.block_on(list(&client, root))?;
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (path, form) in found {
        let context = || path.clone();
        let reader = runtime.block_on(client.read(&path)).map_err(plain).with_context(context)?;
        let bytes = Blocking { runtime: &runtime, reader, ready: Bytes::new() };
        lines(bytes, form, &path, judge).with_context(context)?;
    }
    Ok(())
}

/// Cluster and directory of a URL.
fn split(url: &str) -> anyhow::Result<(&str, &str)> {
    let Some(rest) = url.strip_prefix("hdfs://") else { bail!("{url} does not start with hdfs://") };
    let end = url.len() - rest.find('/').map_or(0, |slash| rest.len() - slash);
    let path = url[end..].trim_end_matches('/');
    Ok((&url[..end], if path.is_empty() { "/" } else { path }))
}

async fn is_there(client: &Client, path: &str) -> io::Result<bool> {
    match client.get_file_info(path).await.map_err(plain) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        info => info.map(|_| true),
    }
}

async fn list(client: &Client, root: &str) -> anyhow::Result<Vec<(String, Form)>> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = client.list_status(&directory, false).await.map_err(plain).context(directory)?;
        for entry in entries {
            let name = entry.path.rsplit('/').next().unwrap_or_default();
            if is_hidden(name) {
                continue;
            }
            match Form::of(name) {
                _ if entry.isdir => directories.push(entry.path),
                Some(form) => found.push((entry.path, form)),
                None => {}
            }
        }
    }
    Ok(found)
}

/// A file of HDFS for those who read and wait.
struct Blocking<'a> {
    runtime: &'a Runtime,
    reader: FileReader,
    ready: Bytes,
}

impl Read for Blocking<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !self.ready.has_remaining() && self.reader.remaining() > 0 {
            let wanted = self.reader.remaining().min(READ_BYTES);
            self.ready = self.runtime.block_on(self.reader.read_bytes(wanted)).map_err(plain)?;
        }
        let bytes = out.len().min(self.ready.len());
        self.ready.copy_to_slice(&mut out[..bytes]);
        Ok(bytes)
    }
}

/// The error with the kind that matters here: what went away, and what no decompressor says.
fn plain(error: HdfsError) -> io::Error {
    let gone = match &error {
        HdfsError::FileNotFound(_) | HdfsError::BlocksNotFound(_) => true,
        HdfsError::RPCError(class, _) => class.ends_with("FileNotFoundException"),
        _ => false,
    };
    io::Error::new(if gone { io::ErrorKind::NotFound } else { io::ErrorKind::ConnectionAborted }, error)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_url_is_split_into_cluster_and_directory() {
        let check = |url, expected| assert_eq!(super::split(url).unwrap(), expected);
        check("hdfs://name:9000/a/b/", ("hdfs://name:9000", "/a/b"));
        check("hdfs://name:9000", ("hdfs://name:9000", "/"));
        check("hdfs://name/", ("hdfs://name", "/"));
        assert!(super::split("/a/b").is_err());
    }
}
