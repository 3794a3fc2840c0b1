//! The user that a client certificate names: common name and organizations.

use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AUTHENTICATED, User};

/// Reads the user off a certificate that the TLS layer has verified.
pub fn user(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let organizations = subject.iter_organization().filter_map(|o| o.as_str().ok());
    let mut groups: Vec<String> = organizations.map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    Some(User {
        name,
        groups,
        ..Default::default()
    })
}
