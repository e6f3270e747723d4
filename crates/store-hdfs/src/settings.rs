//! What an operator chooses for one HDFS cluster, checked, and the client made of it.
//!
//! Left out on purpose: how the settings are written in a topology file (that is `topology`'s).

use std::collections::HashMap;
use std::time::Duration;

use hdfs_native::{Client, ClientBuilder, HdfsError};
use weir_shape::{Codec, Format, Partitioner};

/// HDFS's smallest block by default (`dfs.namenode.fs-limits.min-block-size`).
const BLOCK_BYTES_MIN: u64 = 1 << 20;

/// One directory of one HDFS cluster as a store.
#[derive(Debug, Clone)]
pub struct HdfsSettings {
    /// `hdfs://host:port`, or `hdfs://nameservice` with the name service's nodes in `options` or `config_dir`.
    pub url: String,
    /// The directory under which everything is kept: absolute, without `..`.
    pub root: String,
    /// Which directory under `root` an event belongs to.
    pub partitioner: Partitioner,
    /// What a line of a file looks like.
    pub format: Format,
    /// How files are compressed; their names end accordingly.
    pub codec: Codec,
    /// Copies of each block; the cluster's default if none.
    pub replication: Option<u32>,
    /// Smallest block size asked for, in bytes. A file that is larger gets a block of its own size: `hsync` reaches
    /// the current block only.
    pub block_bytes: u64,
    /// How long to wait for each answer. A NameNode or DataNode that takes longer counts as gone.
    pub deadline: Duration,
    /// Hadoop client properties; they go before what the configuration files say.
    pub options: HashMap<String, String>,
    /// Where `core-site.xml` and `hdfs-site.xml` are; `HADOOP_CONF_DIR` if none.
    pub config_dir: Option<String>,
    /// Who to be on a cluster without Kerberos; `HADOOP_USER_NAME` or the process's user if none.
    pub user: Option<String>,
    /// Who to be on a cluster with Kerberos, if not whom the ticket cache says.
    pub kerberos: Option<Kerberos>,
}

/// A Kerberos identity of the store's own.
#[derive(Debug, Clone)]
pub struct Kerberos {
    /// As in `weir/host@REALM`.
    pub principal: String,
    /// Path of the keytab that holds its key.
    pub keytab: String,
}

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The root is relative, or could lead out of itself.
    #[error("root {0:?} must be an absolute path without empty, '.' or '..' components")]
    Root(String),
    /// No HDFS cluster can be meant, or its configuration is unreadable.
    #[error("no client can be made for {url:?}")]
    Client {
        /// What was given.
        url: String,
        /// The library's error.
        #[source]
        source: HdfsError,
    },
    /// Every call would fail.
    #[error("the deadline must be more than nothing")]
    Deadline,
}

impl HdfsSettings {
    /// Settings for the directory `root` of the cluster at `url`: envelopes by tag and hour, not compressed, the cluster's
    /// replication, blocks of 128 MiB, a deadline of 30 s.
    #[must_use]
    pub fn new(url: impl Into<String>, root: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            root: root.into(),
            partitioner: Partitioner::new("{tag}/%Y-%m-%d/%H").expect("a template of known pieces"),
            format: Format::Envelope,
            codec: Codec::None,
            replication: None,
            block_bytes: 128 << 20,
            deadline: Duration::from_secs(30),
            options: HashMap::new(),
            config_dir: None,
            user: None,
            kerberos: None,
        }
    }

    /// Checks what can be checked without the cluster.
    ///
    /// # Errors
    /// [`SettingsError`] for the first thing that cannot be.
    pub fn check(&self) -> Result<(), SettingsError> {
        let proper = |root: &str| root.split('/').all(|name| !matches!(name, "" | "." | ".."));
        match self.root.strip_prefix('/') {
            Some(rest) if rest.is_empty() || proper(rest.trim_end_matches('/')) => {}
            _ => return Err(SettingsError::Root(self.root.clone())),
        }
        if self.deadline.is_zero() {
            return Err(SettingsError::Deadline);
        }
        // Where there is no runtime the client would make one of its own, if it ever made a call: it makes none.
        self.client(ClientBuilder::new())
            .map(drop)
            .map_err(|source| SettingsError::Client { url: self.url.clone(), source })
    }

    pub(crate) fn client(&self, builder: ClientBuilder) -> Result<Client, HdfsError> {
        // Two NameNodes that are both gone: an error after seconds, not after a minute.
        let mut options = HashMap::from([
            ("dfs.client.failover.max.attempts".to_owned(), "4".to_owned()),
            ("dfs.client.failover.sleep.max.millis".to_owned(), "2000".to_owned()),
        ]);
        options.extend(self.options.clone());
        let mut builder = builder.with_url(&self.url).with_config(options);
        if let Some(directory) = &self.config_dir {
            builder = builder.with_config_dir(directory);
        }
        if let Some(user) = &self.user {
            builder = builder.with_user(user);
        }
        if let Some(Kerberos { principal, keytab }) = &self.kerberos {
            builder = builder.with_kerberos_principal(principal).with_kerberos_keytab(keytab);
        }
        builder.build()
    }

    /// The block size for a file of `bytes`: one block holds it all.
    pub(crate) fn block_for(&self, bytes: usize) -> u64 {
        let whole = (bytes as u64).div_ceil(BLOCK_BYTES_MIN) * BLOCK_BYTES_MIN;
        whole.max(self.block_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        let with = |root: &str| HdfsSettings::new("hdfs://127.0.0.1:9000", root).check();
        for good in ["/", "/logs", "/logs/weir/"] {
            with(good).unwrap();
        }
        for bad in ["", "logs", "/logs//weir", "/logs/../weir", "/logs/."] {
            assert!(matches!(with(bad), Err(SettingsError::Root(_))), "{bad:?}");
        }
        let nameless = HdfsSettings::new("hdfs://", "/logs").check();
        assert!(matches!(nameless, Err(SettingsError::Client { .. })));
        let nodeless = HdfsSettings::new("hdfs://ns", "/logs").check();
        assert!(matches!(nodeless, Err(SettingsError::Client { .. })), "a name service needs NameNodes");
    }

    #[test]
    fn a_file_fits_its_block() {
        let settings = HdfsSettings { block_bytes: 1 << 20, ..HdfsSettings::new("hdfs://n:1", "/") };
        assert_eq!(settings.block_for(0), 1 << 20);
        assert_eq!(settings.block_for(1 << 20), 1 << 20);
        assert_eq!(settings.block_for((1 << 20) + 1), 2 << 20);
    }
}
