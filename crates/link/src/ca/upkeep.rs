//! What an authority does after its first day: sees what runs out, renews it, revokes, and is itself replaced.
//!
//! The list of what is revoked stands in `ca.crt`, behind the certificates to trust: one file tells a node whom it may
//! talk to, and one copy of it brings both.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use weir_model::NodeId;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::{Authority, CA_CERT, CA_DAYS, CA_KEY, CaError, DAY, Issued, write};
use crate::identity::describe;

const CERTIFICATE: &str = "CERTIFICATE";
const REVOCATIONS: &str = "X509 CRL";
/// Where a new authority lies until it has replaced the old one.
const FRESH: &str = ".new";

/// A certificate that the authority's directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The node it was issued to.
    pub node: NodeId,
    /// Its serial number, in hexadecimal pairs.
    pub serial: String,
    /// When it stops being valid.
    pub expires: SystemTime,
    /// Whether this authority signed it, and not one that it has replaced.
    pub ours: bool,
    serial_bytes: Vec<u8>,
    further_names: Vec<String>,
}

impl Authority {
    /// The nodes' certificates beside the authority, by name. Those of removed nodes stand there until they are revoked.
    ///
    /// # Errors
    /// [`CaError::File`] and [`CaError::Foreign`] when one cannot be read.
    pub fn issued(&self) -> Result<Vec<Listed>, CaError> {
        let at = |source| CaError::File { path: self.dir.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(at)? {
            let path = entry.map_err(at)?.path();
            if path.extension().is_some_and(|it| it == "crt") && !path.ends_with(CA_CERT) {
                found.push(self.listed(&path)?);
            }
        }
        found.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(found)
    }

    /// Issues certificates to those of `names` that have none, one of a replaced authority, or one that is valid for
    /// less than `within_days` more days. The others are left alone. Further names of the old one are kept.
    ///
    /// # Errors
    /// As [`issue`](Self::issue) and [`issued`](Self::issued); the names before the failing one are renewed then.
    pub fn renew(&self, names: &[NodeId], within_days: u32, days: u32) -> Result<Vec<Issued>, CaError> {
        let soon = SystemTime::now() + DAY * within_days;
        let mut renewed = Vec::new();
        for name in names {
            let path = self.dir.join(format!("{name}.crt"));
            let old = path.exists().then(|| self.listed(&path)).transpose()?;
            if old.as_ref().is_some_and(|old| old.ours && old.expires > soon) {
                continue;
            }
            let further = old.map(|old| old.further_names).unwrap_or_default();
            renewed.push(self.issue(name, &further, days)?);
        }
        Ok(renewed)
    }

    /// Revokes the certificate of `name`: writes it into the list in `ca.crt`, and removes certificate and key here. Nodes
    /// refuse it in handshakes as soon as they have the new `ca.crt`; connections that exist are not touched.
    ///
    /// # Errors
    /// [`CaError::File`] when there is none, [`CaError::Sign`] when the list cannot be signed.
    pub fn revoke(&self, name: &NodeId) -> Result<Listed, CaError> {
        let cert = self.dir.join(format!("{name}.crt"));
        let listed = self.listed(&cert)?;
        let (text, mut revoked) = self.trusted_and_revoked()?;
        let now = SystemTime::now();
        revoked.push(revocation(&listed.serial_bytes, now));
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + DAY * CA_DAYS).into(),
            crl_number: SerialNumber::from(revoked.len() as u64),
            issuing_distribution_point: None,
            revoked_certs: revoked,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let sign = |source| CaError::Sign { name: "the revocation list".to_owned(), source };
        let list = list.signed_by(&self.issuer).and_then(|list| list.pem()).map_err(sign)?;
        write(&self.dir.join(CA_CERT), &(text + &list), 0o644)?;
        for path in [cert, self.dir.join(format!("{name}.key"))] {
            fs::remove_file(&path).map_err(|source| CaError::File { path, source })?;
        }
        Ok(listed)
    }

    /// Replaces the authority in `dir` by a new one. The old certificate stays trusted until [`retire`](Self::retire);
    /// its key is gone, and [`renew`](Self::renew) issues anew whatever it signed. What a crash left half done is carried
    /// to its end by another call.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`create`](Self::create).
    pub fn rotate(dir: &Path) -> Result<Self, CaError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| CaError::File { path, source }
        };
        let (cert, key, fresh) = (dir.join(CA_CERT), dir.join(CA_KEY), dir.join(FRESH));
        let (fresh_cert, fresh_key) = (fresh.join(CA_CERT), fresh.join(CA_KEY));
        if !(fresh_cert.exists() && fresh_key.exists()) {
            Self::open(dir)?;
            if fresh.exists() {
                fs::remove_dir_all(&fresh).map_err(at(&fresh))?;
            }
            Self::create(&fresh)?;
        }
        let (old, new) = (read(&cert)?, read(&fresh_cert)?);
        if !old.starts_with(&new) {
            write(&cert, &(new + &old), 0o644)?;
        }
        // The last step: until the new key is in its place, it says that there is something to be carried on.
        fs::rename(&fresh_key, &key).map_err(at(&key))?;
        fs::remove_dir_all(&fresh).map_err(at(&fresh))?;
        Self::open(dir)
    }

    /// Ends the trust in authorities that this one has replaced, once no node shows a certificate of theirs.
    ///
    /// # Errors
    /// [`CaError::File`] when `ca.crt` cannot be read or written.
    pub fn retire(&self) -> Result<(), CaError> {
        let path = self.dir.join(CA_CERT);
        let text = read(&path)?;
        let ours = self.subject()?;
        let keep: String = blocks(&text).filter(|block| issuer(block).is_some_and(|it| it == ours)).collect();
        write(&path, &keep, 0o644)
    }

    /// What `ca.crt` holds but this authority's own list, and what that list revokes.
    fn trusted_and_revoked(&self) -> Result<(String, Vec<RevokedCertParams>), CaError> {
        let text = read(&self.dir.join(CA_CERT))?;
        let ours = self.subject()?;
        let (mut kept, mut revoked) = (String::new(), Vec::new());
        for block in blocks(&text) {
            let list = CertificateRevocationListDer::from_pem_slice(block.as_bytes());
            match list.as_deref().map(CertificateRevocationList::from_der) {
                Ok(Ok((_, list))) if list.issuer().as_raw() == ours => {
                    revoked.extend(list.iter_revoked_certificates().map(|one| {
                        let seconds = one.revocation_date.timestamp().try_into().unwrap_or(0);
                        let when = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
                        revocation(one.raw_serial(), when)
                    }));
                }
                _ => kept.push_str(block),
            }
        }
        Ok((kept, revoked))
    }

    /// The authority's name, as its certificates bear it.
    fn subject(&self) -> Result<Vec<u8>, CaError> {
        let path = self.dir.join(CA_CERT);
        let foreign = |detail: String| CaError::Foreign { path: path.clone(), detail };
        let der = CertificateDer::from_pem_file(&path).map_err(|error| foreign(error.to_string()))?;
        let (_, cert) = X509Certificate::from_der(&der).map_err(|error| foreign(error.to_string()))?;
        Ok(cert.subject().as_raw().to_vec())
    }

    fn listed(&self, path: &Path) -> Result<Listed, CaError> {
        let text = read(path)?;
        let foreign = |detail: String| CaError::Foreign { path: path.to_owned(), detail };
        let der =
            CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| foreign(error.to_string()))?;
        let (node, expires) = describe(&der).map_err(foreign)?;
        let (_, cert) = X509Certificate::from_der(&der).map_err(|error| foreign(error.to_string()))?;
        Ok(Listed {
            node,
            expires,
            serial: cert.raw_serial_as_string(),
            ours: cert.issuer().as_raw() == self.subject()?,
            serial_bytes: cert.raw_serial().to_vec(),
            further_names: further_names(&cert),
        })
    }
}

fn further_names(cert: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = cert.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match *bytes {
            [a, b, c, d] => Some(std::net::Ipv4Addr::new(*a, *b, *c, *d).to_string()),
            bytes => <[u8; 16]>::try_from(bytes).ok().map(|it| std::net::Ipv6Addr::from(it).to_string()),
        },
        _ => None,
    });
    // The first is the node's own.
    names.skip(1).collect()
}

fn revocation(serial: &[u8], when: SystemTime) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: when.into(),
        reason_code: None,
        invalidity_date: None,
    }
}

/// The PEM blocks of a file, each with its lines as they are.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let starts: Vec<usize> = text.match_indices("-----BEGIN ").map(|(at, _)| at).collect();
    let ends: Vec<usize> = starts.iter().skip(1).copied().chain([text.len()]).collect();
    starts.into_iter().zip(ends).map(move |(start, end)| &text[start..end])
}

/// Who signed a certificate or a list.
fn issuer(block: &str) -> Option<Vec<u8>> {
    if block.starts_with(&format!("-----BEGIN {CERTIFICATE}-")) {
        let der = CertificateDer::from_pem_slice(block.as_bytes()).ok()?;
        return Some(X509Certificate::from_der(&der).ok()?.1.issuer().as_raw().to_vec());
    }
    if block.starts_with(&format!("-----BEGIN {REVOCATIONS}-")) {
        let der = CertificateRevocationListDer::from_pem_slice(block.as_bytes()).ok()?;
        return Some(CertificateRevocationList::from_der(&der).ok()?.1.issuer().as_raw().to_vec());
    }
    None
}

fn read(path: &Path) -> Result<String, CaError> {
    fs::read_to_string(path).map_err(|source| CaError::File { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_that_a_crash_cut_short_is_carried_on() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        Authority::create(dir).unwrap();
        let first = read(&dir.join(CA_CERT)).unwrap();
        // The new certificate is in its place already, the new key not yet.
        Authority::create(&dir.join(FRESH)).unwrap();
        let second = read(&dir.join(FRESH).join(CA_CERT)).unwrap();
        let key = read(&dir.join(FRESH).join(CA_KEY)).unwrap();
        write(&dir.join(CA_CERT), &(second.clone() + &first), 0o644).unwrap();

        Authority::rotate(dir).unwrap();
        assert_eq!(read(&dir.join(CA_CERT)).unwrap(), second + &first);
        assert_eq!(read(&dir.join(CA_KEY)).unwrap(), key);
        assert!(!dir.join(FRESH).exists());

        // Nothing of use lies there: it begins anew.
        fs::create_dir(dir.join(FRESH)).unwrap();
        Authority::rotate(dir).unwrap();
        assert_eq!(blocks(&read(&dir.join(CA_CERT)).unwrap()).count(), 3);
    }
}
