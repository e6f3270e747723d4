//! What a listener changes of a batch: its tag, and what it adds to records about where they came from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weir_forward::{Batch, Member, annotate};
use weir_topology::ForwardSettings;

use super::peer::Peer;

/// How long a name found in the DNS is used.
const NAME_FOR: Duration = Duration::from_secs(300);
/// How long it is waited for; then the address stands for it.
const NAME_WITHIN: Duration = Duration::from_secs(2);
/// Names remembered; at this bound all are forgotten.
const NAMES_MAX: usize = 4096;

/// The changes for one connection.
pub(crate) struct Rewrite {
    tag: Option<Arc<str>>,
    prefix: Option<String>,
    members: Vec<Member>,
    /// The last tag and what became of it: the next batch mostly has the same.
    last: (Arc<str>, Arc<str>),
}

impl Rewrite {
    /// `hostname` is the peer's name where one is asked for.
    pub(crate) fn new(config: &ForwardSettings, peer: &Peer, hostname: Option<&str>) -> Self {
        let address = peer.ip().map_or_else(|| "unix".to_owned(), |ip| ip.to_string());
        let member = |key: &Option<String>, value: &str| key.as_ref().map(|key| Member::new(key, value));
        let members = [
            member(&config.source_address_key, &address),
            member(&config.source_hostname_key, hostname.unwrap_or(&address)),
        ];
        Self {
            tag: config.tag.as_deref().map(Arc::from),
            prefix: config.add_tag_prefix.clone(),
            members: members.into_iter().flatten().collect(),
            last: (Arc::from(""), Arc::from("")),
        }
    }

    /// The batch as it goes on.
    #[inline]
    pub(crate) fn apply(&mut self, mut batch: Batch) -> Batch {
        if self.tag.is_some() || self.prefix.is_some() {
            batch.header.tag = self.tag(&batch.header.tag);
        }
        if self.members.is_empty() { batch } else { annotate(batch, &self.members) }
    }

    fn tag(&mut self, came: &Arc<str>) -> Arc<str> {
        // An empty tag is legal, and the first pair must not stand for it.
        if self.last.1.is_empty() || self.last.0 != *came {
            let tag = self.tag.as_ref().unwrap_or(came);
            let tag =
                self.prefix.as_ref().map_or_else(|| tag.clone(), |prefix| format!("{prefix}.{tag}").into());
            self.last = (came.clone(), tag);
        }
        self.last.1.clone()
    }
}

/// Names of addresses, asked for outside of the threads that carry data.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<HashMap<IpAddr, (Instant, Arc<str>)>>);

impl Names {
    /// The name of a peer; its address where it has none, or none in time.
    pub(crate) async fn of(&self, peer: &Peer) -> Option<Arc<str>> {
        let ip = peer.ip()?;
        if let Some((found, name)) = self.lock().get(&ip)
            && found.elapsed() < NAME_FOR
        {
            return Some(name.clone());
        }
        let asked = tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&ip));
        let name = match tokio::time::timeout(NAME_WITHIN, asked).await {
            Ok(Ok(Ok(name))) => name,
            _ => ip.to_string(),
        };
        let name: Arc<str> = name.into();
        let mut names = self.lock();
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        names.insert(ip, (Instant::now(), name.clone()));
        Some(name)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, (Instant, Arc<str>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
