//! Explains why a server's TLS is refused, and what to do about it.
//!
//! Always: a returned refusal is final: another attempt cannot succeed. A network failure is not a refusal.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

use super::error::CliError;
use super::target::Target;

/// Returns the refusal in this error: of the server's certificate, or of TLS as a whole. `None` for any other
/// error.
pub(super) fn refusal(error: &(dyn Error + 'static), url: &Target) -> Option<CliError> {
    let (what, hint) = explained(rustls_error(error)?, url)?;
    Some(CliError::new(format!("{url}: {what}")).hint(hint))
}

/// Returns the rustls error inside another error, at any depth.
fn rustls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // The source of an `io::Error` is the source of its inner error, so the inner error itself would be
        // skipped.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => match error.downcast_ref() {
                Some(ureq::Error::Io(inner)) => Some(inner),
                Some(ureq::Error::Rustls(inner)) => Some(inner),
                _ => error.source(),
            },
        };
    }
    None
}

fn explained(error: &rustls::Error, url: &Target) -> Option<(String, String)> {
    Some(match error {
        rustls::Error::InvalidCertificate(fault) => certificate(fault, url.host()),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => (
            "the server does not speak TLS on this port".to_owned(),
            format!("Use http://{}, or give the server a certificate: docs/tls.md.", url.authority),
        ),
        rustls::Error::AlertReceived(alert) if is_final(*alert) => (
            format!("the server refused the TLS handshake ({alert:?})"),
            "Is this the right host and port? The server's log says more.".to_owned(),
        ),
        rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => (
            format!("the server and this client share no version or cipher of TLS ({error})"),
            "Fanwire's commands speak TLS 1.2 and 1.3.".to_owned(),
        ),
        _ => return None,
    })
}

/// Returns whether a server that sent this alert would send it again. `InternalError` and similar alerts may be
/// temporary.
fn is_final(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity
            | AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnrecognisedName
            | AlertDescription::NoApplicationProtocol
            | AlertDescription::AccessDenied
    )
}

/// Returns a description of a certificate's fault, and the next step for the user.
fn certificate(fault: &CertificateError, host: &str) -> (String, String) {
    let refused = |why: &str| format!("the server's certificate is refused: {why}");
    let make = format!("`fanwire dev-cert {host}` makes one for tests");
    match fault {
        CertificateError::UnknownIssuer => (
            refused("no trusted authority has signed it (UnknownIssuer)"),
            format!("Give the file of its authority with --ca-file. {make}, with its authority."),
        ),
        CertificateError::BadSignature => (
            refused("the trusted authority of the same name has not signed it (BadSignature)"),
            format!("Give the file of its own authority with --ca-file. {make}, with its authority."),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let names = match fault {
                CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
                    let plain = |name: &String| {
                        let inner = name.split_once("(\"").and_then(|(_, rest)| rest.strip_suffix("\")"));
                        inner.unwrap_or(name).to_owned()
                    };
                    presented.iter().map(plain).collect::<Vec<_>>().join(", ")
                }
                _ => "other names".to_owned(),
            };
            (
                refused(&format!("it is for {names}, not for {host} (NotValidForName)")),
                format!("Use one of its names as the URL's host. {make}."),
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            refused("it has expired (Expired)"),
            "Renew it, and send the server SIGHUP. Is this machine's clock right?".to_owned(),
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            refused("it is not valid yet (NotValidYet)"),
            "Are the clocks right, of this machine and of the machine that made it?".to_owned(),
        ),
        // This error of rustls-webpki can be recognised by its text only.
        other if other.to_string().contains("CaUsedAsEndEntity") => (
            refused("it is the certificate of an authority, not of a server (CaUsedAsEndEntity)"),
            format!(
                "`openssl req -x509` makes an authority; with -addext basicConstraints=critical,CA:FALSE it makes a server's \
                 certificate. {make}; then give its ca.pem with --ca-file."
            ),
        ),
        other if other.to_string().contains("UnsupportedCertVersion") => (
            refused("it is of X.509 version 1, which has no host names (UnsupportedCertVersion)"),
            format!("`openssl x509 -req` makes version 3 with -extfile and subjectAltName. {make}."),
        ),
        other => {
            (refused(&other.to_string()), format!("docs/tls.md lists what a certificate needs. {make}."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url() -> Target {
        "https://localhost:8443".parse().expect("valid")
    }

    #[test]
    fn a_refused_certificate_is_found_however_deep_it_is() {
        let refused = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let io = || io::Error::new(io::ErrorKind::InvalidData, refused());
        let errors: [Box<dyn Error>; 6] = [
            Box::new(refused()),
            Box::new(io()),
            Box::new(io::Error::other(io())),
            Box::new(tungstenite::Error::Io(io())),
            Box::new(ureq::Error::Io(io())),
            Box::new(ureq::Error::Rustls(refused())),
        ];
        for error in errors {
            let found = refusal(&*error, &url()).expect("a refusal");
            assert!(
                found.message.contains("https://localhost:8443: ") && found.message.contains("UnknownIssuer")
            );
            assert!(found.hint.is_some_and(|hint| hint.contains("--ca-file")));
        }
    }

    #[test]
    fn a_passing_failure_is_no_refusal() {
        let errors: [Box<dyn Error>; 4] = [
            Box::new(io::Error::from(io::ErrorKind::ConnectionRefused)),
            Box::new(rustls::Error::AlertReceived(AlertDescription::InternalError)),
            Box::new(ureq::Error::HostNotFound),
            Box::new(tungstenite::Error::ConnectionClosed),
        ];
        for error in errors {
            assert!(refusal(&*error, &url()).is_none(), "{error}");
        }
    }
}
