//! The request inside a `CertificateSigningRequest`: PKCS #10 in PEM.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

const REQUEST_LABEL: &str = "CERTIFICATE REQUEST";
const CERTIFICATE_LABEL: &str = "CERTIFICATE";

/// Why bytes are no request, or whose signature is not that of its key.
fn der(pem: &[u8]) -> Result<Vec<u8>, String> {
    let block = Pem::iter_from_buffer(pem).next().and_then(Result::ok);
    let block = block.filter(|block| block.label == REQUEST_LABEL);
    let block = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    Ok(block.contents)
}

/// Checks the form and the signature of a request.
pub(super) fn check(pem: &[u8]) -> Result<(), String> {
    let der = der(pem)?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|why| why.to_string())?;
    request.verify_signature().map_err(|why| why.to_string())
}

/// The organizations that a request asks for, which are groups.
///
/// # Errors
/// When it cannot be read.
pub fn organizations(pem: &[u8]) -> Result<Vec<String>, String> {
    let der = der(pem)?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|why| why.to_string())?;
    let subject = &request.certification_request_info.subject;
    let organizations = subject.iter_organization();
    Ok(organizations
        .filter_map(|o| o.as_str().ok())
        .map(str::to_owned)
        .collect())
}

/// Checks the certificates that a signer made.
pub(super) fn check_certificates(pem: &[u8]) -> Result<(), String> {
    let mut n_blocks = 0;
    for block in Pem::iter_from_buffer(pem) {
        let Ok(block) = block else { break };
        if block.label != CERTIFICATE_LABEL {
            return Err(format!(
                "only CERTIFICATE PEM blocks are allowed, found {:?}",
                block.label
            ));
        }
        X509Certificate::from_der(&block.contents).map_err(|why| why.to_string())?;
        n_blocks += 1;
    }
    if n_blocks == 0 {
        return Err("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    Ok(())
}
