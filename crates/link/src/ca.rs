//! The cluster's own certificate authority: a key and a certificate in a directory.
//!
//! It signs one certificate per node, good for both ends of a link, with the node's name as first DNS name.
//! ECDSA P-256 throughout; keys are readable by their owner only. [`upkeep`] is what follows: renewal, revocation, and
//! the authority's own replacement.

mod upkeep;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use weir_model::NodeId;

use crate::identity::server_name;

pub use upkeep::Listed;

/// File name of the authority's certificate: what every node trusts.
pub const CA_CERT: &str = "ca.crt";
/// File name of the authority's key: what only the machine that issues certificates needs.
pub const CA_KEY: &str = "ca.key";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// An authority outlives any node certificate that it is likely to sign.
const CA_DAYS: u32 = 3650;
/// Beyond a century from now a date no longer fits into every form that certificates write it in.
const DAYS_MAX: u32 = 36_500;
/// How long before now a certificate begins, for nodes whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// Why the authority could not be made, opened or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// There is an authority already; a new one would lock out every node that trusts the old.
    #[error("{} exists: a new authority would lock out every node that trusts this one", .0.display())]
    Exists(PathBuf),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the authority holds something else than what it should.
    #[error("{} is not what `weir ca init` writes", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rcgen::Error,
    },
    /// A certificate in the directory cannot be read.
    #[error("{} is no certificate of a node: {detail}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The node's name cannot stand in a certificate.
    #[error("{0}")]
    Name(String),
    /// The certificate could not be made.
    #[error("cannot sign a certificate for {name}")]
    Sign {
        /// For whom.
        name: String,
        /// What is wrong.
        source: rcgen::Error,
    },
}

/// Where a node's new certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// The node's key, readable by its owner only.
    pub key: PathBuf,
}

/// The certificate authority that lives in one directory.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority in `dir` (made if missing).
    ///
    /// # Errors
    /// [`CaError::Exists`] if there is one already; [`CaError::File`] when the disk refuses.
    pub fn create(dir: &Path) -> Result<Self, CaError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| CaError::File { path, source }
        };
        let sign = |source| CaError::Sign { name: "the authority".to_owned(), source };
        fs::create_dir_all(dir).map_err(at(dir))?;
        let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
        if cert_path.exists() || key_path.exists() {
            return Err(CaError::Exists(if key_path.exists() { key_path } else { cert_path }));
        }
        let key = KeyPair::generate().map_err(sign)?;
        let mut params = params(CA_DAYS);
        // Two authorities of one name would make "wrong authority" look like "bad signature".
        let fingerprint: String =
            params.key_identifier(&key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name.push(DnType::CommonName, format!("Weir cluster {fingerprint}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key).map_err(sign)?;
        write(&key_path, &key.serialize_pem(), 0o600)?;
        write(&cert_path, &cert.pem(), 0o644)?;
        Ok(Self { dir: dir.into(), issuer: Issuer::new(params, key) })
    }

    /// Opens the authority in `dir`.
    ///
    /// # Errors
    /// [`CaError::File`] when there is none, [`CaError::Content`] when its files are not PEM.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| CaError::File { path: path.into(), source })
        };
        let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
        let key = KeyPair::from_pem(&read(&key_path)?)
            .map_err(|source| CaError::Content { path: key_path, source })?;
        let issuer = Issuer::from_ca_cert_pem(&read(&cert_path)?, key)
            .map_err(|source| CaError::Content { path: cert_path, source })?;
        Ok(Self { dir: dir.into(), issuer })
    }

    /// Signs a new certificate and key for the node `name`, good for `days` days (at most 36 500), and writes them beside the
    /// authority as `<name>.crt` and `<name>.key`. Files of that name are replaced, each as a whole.
    ///
    /// `extra_sans` are further DNS names or addresses for other clients of the node; peers look at `name` only.
    ///
    /// # Errors
    /// [`CaError::Name`] when `name` cannot be a DNS name, [`CaError::Sign`] when an extra name cannot,
    /// [`CaError::File`] when the disk refuses.
    pub fn issue(&self, name: &NodeId, extra_sans: &[String], days: u32) -> Result<Issued, CaError> {
        server_name(name).map_err(CaError::Name)?;
        let sign = |source| CaError::Sign { name: name.to_string(), source };
        let sans: Vec<String> = std::iter::once(name.to_string()).chain(extra_sans.iter().cloned()).collect();
        let mut params = params(days);
        params.subject_alt_names = CertificateParams::new(sans).map_err(sign)?.subject_alt_names;
        params.distinguished_name.push(DnType::CommonName, name.to_string());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(sign)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(sign)?;
        let issued = Issued {
            ca: self.dir.join(CA_CERT),
            cert: self.dir.join(format!("{name}.crt")),
            key: self.dir.join(format!("{name}.key")),
        };
        // A node that reloads between the two renames sees files that are no pair, says so, and keeps the old.
        write(&issued.key, &key.serialize_pem(), 0o600)?;
        write(&issued.cert, &cert.pem(), 0o644)?;
        Ok(issued)
    }
}

fn params(days: u32) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + DAY * days.min(DAYS_MAX)).into();
    params
}

/// Writes `text` beside `path`, syncs it and renames it into place, so that no reader meets half a file.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let result = (|| {
        // A left-over of a crash may have other permissions.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    result.map_err(|source| CaError::File { path: path.into(), source })
}
