//! A listener's settings, ready for use: files read, secrets fetched, patterns compiled.

use std::sync::Arc;

use rustls::ServerConfig;
use weir_forward::Limits;
use weir_forward::handshake::{Client, Security, SecurityError, User};
use weir_model::NodeId;
use weir_topology::{ForwardSecurity, ForwardSettings, SecretError};

use super::limits::Rules;
use super::peer::Peer;
use super::tls::{self, Stamp, TlsError};

/// Why a listener's settings cannot be used on this node.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Its certificate files.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    /// A secret is not there.
    #[error("a secret is missing")]
    Secret(#[from] SecretError),
    /// Senders would refuse this server.
    #[error("the handshake cannot work")]
    Security(#[from] SecurityError),
    /// A pattern in a limit.
    #[error("a limit is wrong")]
    Limit(#[from] weir_routing::RouterError),
}

/// What connections go by.
pub(crate) struct Settings {
    pub(crate) config: ForwardSettings,
    pub(crate) limits: Limits,
    pub(crate) security: Option<Arc<Security>>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) tls: Option<Tls>,
}

/// A listener's TLS, and the state of the files when they were read.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) server: Arc<ServerConfig>,
    stamp: Arc<Stamp>,
}

impl Settings {
    /// Reads and compiles. Where name and limits are those of `before`, what they have taken still counts.
    pub(crate) fn new(
        listener: &str,
        config: &ForwardSettings,
        node: &NodeId,
        before: Option<&Self>,
    ) -> Result<Self, SettingsError> {
        let rules = match before.filter(|before| before.rules.are(listener, &config.limits)) {
            Some(before) => before.rules.clone(),
            None => Arc::new(Rules::new(listener, &config.limits)?),
        };
        Ok(Self {
            limits: Limits {
                message_bytes_max: size(config.chunk_size_limit.0),
                unpacked_bytes_max: size(config.decompression_size_limit.0),
                ..Limits::default()
            },
            security: config.security.as_ref().map(|security| compile(security, node)).transpose()?,
            rules,
            tls: config.tls.as_ref().map(read_tls).transpose()?,
            config: config.clone(),
        })
    }

    /// Whether this peer begins with a PROXY header.
    pub(crate) fn is_balancer(&self, peer: &Peer) -> bool {
        let from = &self.config.proxy_protocol;
        !from.is_empty() && peer.ip().is_some_and(|ip| from.iter().any(|network| network.contains(ip)))
    }

    /// The same with certificates read anew; none if the files are those of before.
    pub(crate) fn with_new_certificates(&self) -> Option<Result<Self, TlsError>> {
        let (config, tls) = (self.config.tls.as_ref()?, self.tls.as_ref()?);
        if tls::stamp(config) == *tls.stamp {
            return None;
        }
        Some(read_tls(config).map(|tls| Self {
            config: self.config.clone(),
            limits: self.limits,
            security: self.security.clone(),
            rules: self.rules.clone(),
            tls: Some(tls),
        }))
    }
}

fn read_tls(config: &weir_topology::ForwardTls) -> Result<Tls, TlsError> {
    // The stamp first: what changes in between is seen as a change the next time.
    let stamp = Arc::new(tls::stamp(config));
    Ok(Tls { server: tls::server_config(config)?, stamp })
}

fn compile(security: &ForwardSecurity, node: &NodeId) -> Result<Arc<Security>, SettingsError> {
    let users = security.users.iter().map(|user| {
        Ok::<_, SecretError>(User { name: user.username.clone(), password: user.password.read()? })
    });
    let users = users.collect::<Result<Vec<_>, _>>()?;
    let clients = security.clients.iter().map(|client| {
        Ok::<_, SecretError>(Client {
            network: client.network,
            shared_key: client.shared_key.as_ref().map(|key| key.read()).transpose()?,
            users: client.users.clone(),
        })
    });
    let compiled = Security {
        server_hostname: security.self_hostname.clone().unwrap_or_else(|| node.to_string()),
        shared_key: security.shared_key.read()?,
        keepalive: true,
        allow_anonymous_source: security.allow_anonymous_source,
        clients: clients.collect::<Result<_, _>>()?,
        users: (!users.is_empty()).then_some(users),
    };
    compiled.check()?;
    Ok(Arc::new(compiled))
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use weir_link::ca::Authority;
    use weir_topology::parse_topology;

    use super::*;

    #[test]
    fn changed_certificates_are_read_anew_and_wrong_ones_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeId::new("edge-1").unwrap();
        let issued = Authority::create(dir.path()).unwrap().issue(&node, &[], 1).unwrap();
        let text = format!(
            "version = 1\ncluster.name = 'c'\nedge = [{{ name = 'edge-1', rack = 'r' }}]\n\
             route = [{{ match = '**', groups = ['g'] }}]\n\
             forward.tls = {{ cert = '{}', key = '{}' }}\n\
             [[group]]\nid = 'g'\nsink = [{{ name = 's', rack = 'r', address = 'h:1' }}]\n\
             store = {{ kind = 'file', path = 'out' }}\n",
            issued.cert.display(),
            issued.key.display()
        );
        let (topology, _) = parse_topology(&text, "topology.toml").unwrap();
        let listener = &topology.forward.listeners[0];
        let settings = Settings::new(&listener.name, &listener.settings, &node, None).unwrap();
        assert!(settings.with_new_certificates().is_none(), "nothing has changed");

        let good = std::fs::read(&issued.cert).unwrap();
        std::fs::write(&issued.cert, "nothing").unwrap();
        assert!(matches!(settings.with_new_certificates(), Some(Err(TlsError::File { .. }))));
        std::fs::write(&issued.cert, [&good[..], b"\n"].concat()).unwrap();
        assert!(matches!(settings.with_new_certificates(), Some(Ok(_))));
    }

    /// Its name is the node's where it has none of its own, and senders refuse one of that name [R56].
    #[test]
    fn a_node_that_senders_would_refuse_is_refused() {
        let text = "version = 1\ncluster.name = 'c'\nedge = [{ name = 'e', rack = 'r' }]\n\
             route = [{ match = '**', groups = ['g'] }]\nforward.security.shared_key = 'k'\n\
             [[group]]\nid = 'g'\nsink = [{ name = 's', rack = 'r', address = 'h:1' }]\n\
             store = { kind = 'file', path = 'out' }\n";
        let (topology, _) = parse_topology(text, "topology.toml").unwrap();
        let settings = |name: &str| {
            let node = NodeId::new(name).unwrap();
            Settings::new("main", &topology.forward.listeners[0].settings, &node, None).map(drop)
        };
        assert!(settings("edge-1").is_ok());
        assert!(matches!(settings("localhost"), Err(SettingsError::Security(_))));
    }
}
