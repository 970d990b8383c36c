//! `fanwire dev-cert`: makes a test certificate and the authority that signs it.
//!
//! Always: the output is a server certificate signed by its own authority, the form that curl, browsers and rustls
//! accept. The authority's key is not stored, so nothing else can be signed with it. No file is replaced without
//! `--force`.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::ServerName;

use super::error::CliError;
use super::style::DIM;

/// Options of `fanwire dev-cert`.
#[derive(clap::Args, Debug)]
pub(super) struct DevCertArgs {
    /// Names and addresses of the server, besides localhost, 127.0.0.1 and ::1
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Folder for ca.pem, cert.pem and key.pem
    #[arg(long, value_name = "DIR", default_value = "dev-cert")]
    dir: PathBuf,
    /// Number of days that the certificate is valid
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=397))]
    days: u32,
    /// Replace existing files
    #[arg(long)]
    force: bool,
}

/// Names of this machine, in every certificate.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Time before now at which a certificate becomes valid, because other machines' clocks may be slow.
const BEFORE: Duration = Duration::from_secs(3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Makes the three files and prints how to use them.
pub(super) fn run(args: &DevCertArgs) -> Result<(), CliError> {
    let mut names: Vec<String> = LOCAL.map(str::to_owned).into();
    for name in &args.names {
        let name = checked(name)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|file| args.dir.join(file));
    if !args.force
        && let Some(there) = [&ca, &cert, &key].into_iter().find(|path| path.exists())
    {
        return Err(CliError::new(format!("{} already exists", there.display()))
            .hint("--force replaces it; --dir names another folder."));
    }
    let made = DevCertificate::new(&names, args.days)
        .map_err(|error| CliError::new(format!("cannot make a certificate: {error}")))?;
    let written = fs::create_dir_all(&args.dir)
        .and_then(|()| write(&key, 0o600, "PRIVATE KEY", &made.key))
        .and_then(|()| write(&cert, 0o644, "CERTIFICATE", &made.cert))
        .and_then(|()| write(&ca, 0o644, "CERTIFICATE", &made.ca));
    written.map_err(|error| CliError::new(format!("cannot write to {}: {error}", args.dir.display())))?;
    let (ca, cert, key) = (ca.display(), cert.display(), key.display());
    let (names, days) = (names.join(", "), args.days);
    anstream::print!(
        "{ca}  {DIM}the authority, for clients to trust; its key is kept nowhere{DIM:#}\n\
         {cert}  {DIM}for {names}; for {days} days{DIM:#}\n\
         {key}  {DIM}its key, for the server only{DIM:#}\n\n\
         fanwire serve --tls-cert-file {cert} --tls-key-file {key}\n\
         curl --cacert {ca} https://localhost:8765/healthz\n\
         fanwire tail --ca-file {ca} --url https://localhost:8765\n\
         {DIM}Browsers and other programs: docs/tls.md{DIM:#}\n"
    );
    Ok(())
}

/// Checks a host name or an address, and returns it in the form that a certificate holds.
fn checked(name: &str) -> Result<String, CliError> {
    let name = name.trim().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    // A wildcard stands for the whole first label.
    let host = name.strip_prefix("*.").unwrap_or(&name);
    if name.parse::<IpAddr>().is_ok()
        || ServerName::try_from(host).is_ok_and(|_| host.parse::<IpAddr>().is_err())
    {
        return Ok(name);
    }
    Err(CliError::new(format!("`{name}` is not a host name")).hint(
        "Give host names or addresses, as events.test, *.events.test or 10.0.0.7, without scheme or port.",
    ))
}

/// A new certificate, its key and its authority, in DER.
struct DevCertificate {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl DevCertificate {
    fn new(names: &[String], days: u32) -> Result<Self, rcgen::Error> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let hold = |params: &mut CertificateParams| {
            params.not_before = epoch + now.saturating_sub(BEFORE);
            params.not_after = epoch + now + DAY * days;
        };
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::default();
        hold(&mut ca);
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Each authority has its own name, because trust stores look authorities up by name.
        let mark =
            ca_key.public_key_raw().iter().rev().take(4).fold(0_u32, |all, byte| all << 8 | u32::from(*byte));
        ca.distinguished_name = rcgen::DistinguishedName::new();
        ca.distinguished_name.push(DnType::CommonName, format!("Fanwire dev-cert {mark:08x}"));
        let ca = CertifiedIssuer::self_signed(ca, ca_key)?;

        let key = KeyPair::generate()?;
        let mut cert = CertificateParams::new(names)?;
        hold(&mut cert);
        cert.is_ca = IsCa::ExplicitNoCa;
        cert.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        cert.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // Python's strict checks require it.
        cert.use_authority_key_identifier_extension = true;
        cert.distinguished_name = rcgen::DistinguishedName::new();
        cert.distinguished_name.push(DnType::CommonName, names.last().map_or("localhost", String::as_str));
        let cert = cert.signed_by(&key, &ca)?;
        Ok(Self { ca: ca.der().to_vec(), cert: cert.der().to_vec(), key: key.serialize_der() })
    }
}

/// Writes a new PEM file. Removes an old file first, so that a process that has it open does not see the new
/// content, and sets `mode` from the start.
fn write(path: &Path, mode: u32, label: &str, der: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(pem(label, der).as_bytes())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    let _ = writeln!(out, "-----END {label}-----");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_for_hosts_and_addresses() {
        for (given, name) in [
            ("Events.test", "events.test"),
            ("*.events.test", "*.events.test"),
            ("10.0.0.7", "10.0.0.7"),
            ("[fd00::7]", "fd00::7"),
        ] {
            assert_eq!(checked(given).map_err(|error| error.message), Ok(name.to_owned()));
        }
        for text in ["https://events.test", "events.test:8443", "", "a b", "*", "*.10.0.0.7", "a/b"] {
            assert!(checked(text).is_err(), "{text}");
        }
    }
}
