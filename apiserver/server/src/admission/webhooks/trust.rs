//! Which certificates webhooks may show: those that the bundle vouches for, and, as with Go, those that are in the bundle
//! themselves. Webhooks often have one certificate that is its own authority.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Checks the certificates of webhooks.
#[derive(Debug)]
pub struct Trust {
    by_authority: Arc<WebPkiServerVerifier>,
    themselves: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// Trusts what these certificates vouch for.
    ///
    /// # Errors
    /// When there are none that can vouch.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            // What cannot vouch for others may still be trusted itself.
            let _ = roots.add(certificate.clone());
        }
        let by_authority = WebPkiServerVerifier::builder(Arc::new(roots)).build();
        Ok(Self {
            by_authority: by_authority.map_err(|error| error.to_string())?,
            themselves: certificates,
        })
    }
}

/// Whether a certificate is good at a time.
fn in_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = X509Certificate::from_der(certificate);
    let (_, parsed) = parsed.map_err(|_| Error::from(CertificateError::BadEncoding))?;
    let validity = parsed.validity();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    Ok(())
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.themselves.iter().any(|known| known == end_entity) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            in_time(end_entity, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        let verifier = &self.by_authority;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    /// A certificate that is its own authority.
    fn own_authority(name: &str, years: (i32, i32)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().expect("a key");
        params
            .self_signed(&key)
            .expect("a certificate")
            .der()
            .clone()
    }

    fn checked(
        trusted: &CertificateDer<'static>,
        shown: &CertificateDer<'static>,
        name: &str,
    ) -> Result<(), Error> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let trust = Trust::new(vec![trusted.clone()]).expect("it can vouch");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        // The middle of 2026.
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_782_000_000));
        trust
            .verify_server_cert(shown, &[], &name, &[], now)
            .map(drop)
    }

    #[test]
    fn a_certificate_of_the_bundle_is_trusted_for_its_names_and_in_its_time() {
        let good = own_authority("hook.example.com", (2020, 2040));
        assert_eq!(checked(&good, &good, "hook.example.com"), Ok(()));
        assert!(checked(&good, &good, "other.example.com").is_err());
        let old = own_authority("hook.example.com", (2000, 2020));
        assert_eq!(
            checked(&old, &old, "hook.example.com"),
            Err(CertificateError::Expired.into())
        );
        assert!(
            checked(
                &good,
                &own_authority("hook.example.com", (2020, 2040)),
                "hook.example.com"
            )
            .is_err()
        );
    }
}
