//! TLS to PostgreSQL, with libpq's meaning of `sslmode` and `sslrootcert`, which the driver does not know in full.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::ConfigVerifierExt as _;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Whether a connection is encrypted, and who may be at its other end.
#[derive(Clone)]
pub struct Tls {
    mode: SslMode,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// What the driver is to ask the server for.
    pub(super) fn mode(&self) -> SslMode {
        self.mode
    }

    /// A connector for the driver.
    pub(super) fn connector(&self) -> MakeRustlsConnect {
        MakeRustlsConnect::new((*self.config).clone())
    }
}

/// Takes `sslmode` and `sslrootcert` out of a connection string, in either of its forms.
pub(super) fn split_off(dsn: &str) -> Result<(String, Tls), String> {
    let mut mode = None;
    let mut root = None;
    let mut is_plain = |pair: &str| match pair.split_once('=') {
        Some(("sslmode", value)) => {
            mode = Some(unquoted(value));
            false
        }
        Some(("sslrootcert", value)) => {
            root = Some(unquoted(value));
            false
        }
        _ => true,
    };
    let plain = if dsn.starts_with("postgres://") || dsn.starts_with("postgresql://") {
        match dsn.split_once('?') {
            Some((base, query)) => {
                let rest: Vec<&str> = query.split('&').filter(|pair| is_plain(pair)).collect();
                if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) }
            }
            None => dsn.to_owned(),
        }
    } else {
        dsn.split_whitespace().filter(|pair| is_plain(pair)).collect::<Vec<_>>().join(" ")
    };
    let tls = tls(mode.as_deref().unwrap_or("prefer"), root.as_deref())?;
    Ok((plain, tls))
}

fn unquoted(value: &str) -> String {
    percent_encoding::percent_decode_str(value.trim_matches('\'')).decode_utf8_lossy().into_owned()
}

fn tls(mode: &str, root: Option<&str>) -> Result<Tls, String> {
    let (driver_mode, verify) = match mode {
        "disable" => (SslMode::Disable, false),
        "allow" | "prefer" => (SslMode::Prefer, false),
        // As libpq does: a root certificate turns require into verify-ca.
        "require" => (SslMode::Require, root.is_some()),
        "verify-ca" | "verify-full" => (SslMode::Require, true),
        other => {
            return Err(format!("sslmode: given {other:?}; allowed: disable, prefer, require, verify-ca, verify-full"));
        }
    };
    let config = match (verify, root) {
        (false, _) => ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider())))
            .with_no_client_auth(),
        (true, None) => ClientConfig::with_platform_verifier()
            .map_err(|error| format!("sslmode={mode}: the system's root certificates cannot be used: {error}"))?,
        (true, Some(path)) => {
            let mut roots = RootCertStore::empty();
            let bad = |error: &dyn std::fmt::Display| {
                format!("sslrootcert: {path} is not a PEM file of certificates: {error}")
            };
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(&error))? {
                let certificate = certificate.map_err(|error| bad(&error))?;
                roots.add(certificate).map_err(|error| bad(&error))?;
            }
            ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(Tls { mode: driver_mode, config: Arc::new(config) })
}

fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()))
}

/// Encrypts without asking who is there: what `sslmode=prefer` and `require` mean.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sslmode_is_taken_out_of_both_forms_and_the_rest_is_kept() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (dsn, plain, mode) in [
            (
                "postgres://u:p@h/d?sslmode=require&application_name=a",
                "postgres://u:p@h/d?application_name=a",
                SslMode::Require,
            ),
            ("postgres://u:p@h/d?sslmode=disable", "postgres://u:p@h/d", SslMode::Disable),
            ("postgres://u:p@h/d", "postgres://u:p@h/d", SslMode::Prefer),
            ("host=h sslmode='disable' user=u", "host=h user=u", SslMode::Disable),
        ] {
            let (rest, tls) = split_off(dsn).unwrap();
            assert_eq!((rest.as_str(), tls.mode()), (plain, mode), "{dsn}");
        }
    }

    #[test]
    fn an_unknown_sslmode_is_refused_with_what_is_allowed() {
        let error = split_off("postgres://h/d?sslmode=maybe").err().unwrap();
        assert!(error.contains("maybe") && error.contains("verify-full"), "{error}");
    }
}
