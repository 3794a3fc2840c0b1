//! The cluster's CA as a signer of requests.
//!
//! The certificate takes subject and key as they are in the request, byte by byte: groups are organizations, of which
//! a subject may have several. So it is put together here, in DER.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{KeyPair, SigningKey};
use x509_parser::extensions::ParsedExtension;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::request::{AlternativeName, Request};

/// Certificates are good from a little earlier, for clocks that disagree.
const BACKDATE: Duration = Duration::from_secs(300);
/// The end of a certificate that lasts less than this is not moved with its beginning.
const SHORT: Duration = Duration::from_secs(8 * 3600);
/// From this year on times have four digits of the year.
const LONG_YEARS: i16 = 2050;
const SERIAL_LENGTH: usize = 16;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// Class and form of tags that belong to their context.
const CONTEXT: u8 = 0x80;
const CONSTRUCTED: u8 = 0x20;

/// The usages that are bits of one extension, by the numbers of the bits.
const KEY_USAGES: [(&str, usize); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];
/// The usages that are identifiers in another extension, in the order in which they are written.
const EXTENDED_USAGES: [(&str, &[u8]); 13] = [
    ("any", &[0x55, 0x1d, 0x25, 0x00]),
    ("server auth", &[0x2b, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[0x2b, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[0x2b, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[0x2b, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[0x2b, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[0x2b, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[0x2b, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[0x2b, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3]),
    (
        "netscape sgc",
        &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1],
    ),
];

/// A CA's certificate and key, in PEM.
#[derive(Clone)]
pub struct SigningCa {
    pub certificate: String,
    pub key: String,
}

/// The CA, read.
pub struct Authority {
    key: KeyPair,
    algorithm: Vec<u8>,
    /// The CA's name in DER.
    name: Vec<u8>,
    key_id: Option<Vec<u8>>,
    not_after: Timestamp,
}

impl Authority {
    /// Reads certificate and key.
    pub fn new(ca: &SigningCa) -> Result<Self, String> {
        let key = KeyPair::from_pem(&ca.key).map_err(|e| e.to_string())?;
        let block = Pem::iter_from_buffer(ca.certificate.as_bytes()).next();
        let block = block.ok_or("no certificate")?.map_err(|e| e.to_string())?;
        let parsed = X509Certificate::from_der(&block.contents);
        let (_, certificate) = parsed.map_err(|e| e.to_string())?;
        let ids = certificate.extensions().iter();
        let mut ids = ids.filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let not_after = certificate.validity().not_after.timestamp();
        Ok(Self {
            algorithm: algorithm(&key)?,
            name: certificate.subject().as_raw().to_vec(),
            key_id: ids.next(),
            not_after: Timestamp::from_second(not_after).map_err(|e| e.to_string())?,
            key,
        })
    }

    /// The certificate for a request, in PEM.
    pub fn sign(
        &self,
        request: &Request,
        usages: &[String],
        life: Duration,
        now: Timestamp,
    ) -> Result<String, String> {
        if now >= self.not_after {
            return Err("the certificate of the signer has expired".to_owned());
        }
        let before = now - BACKDATE;
        let after = if life < SHORT { now } else { before } + life;
        let validity = [time(before), time(after.min(self.not_after))].concat();
        let mut serial: [u8; SERIAL_LENGTH] = rand::random();
        // Positive, and as long as it is.
        serial[0] = serial[0] & 0x7f | 0x40;
        let body = [
            tlv(CONTEXT | CONSTRUCTED, &tlv(INTEGER, &[2])),
            tlv(INTEGER, &serial),
            self.algorithm.clone(),
            self.name.clone(),
            tlv(SEQUENCE, &validity),
            request.subject.clone(),
            request.key.clone(),
            tlv(
                CONTEXT | CONSTRUCTED | 3,
                &tlv(SEQUENCE, &self.extensions(request, usages)?),
            ),
        ];
        let body = tlv(SEQUENCE, &body.concat());
        let signature = self.key.sign(&body).map_err(|e| e.to_string())?;
        let whole = [
            body,
            self.algorithm.clone(),
            tlv(BIT_STRING, &[&[0], signature.as_slice()].concat()),
        ];
        Ok(pem(&tlv(SEQUENCE, &whole.concat())))
    }

    fn extensions(&self, request: &Request, usages: &[String]) -> Result<Vec<u8>, String> {
        let known = |usage: &&String| {
            KEY_USAGES.iter().any(|(name, _)| name == usage)
                || EXTENDED_USAGES.iter().any(|(name, _)| name == usage)
        };
        if let Some(usage) = usages.iter().find(|usage| !known(usage)) {
            return Err(format!("unrecognized usage value: {usage:?}"));
        }
        let given = |name: &str| usages.iter().any(|usage| usage == name);
        let mut found = Vec::new();
        let bits = KEY_USAGES.iter().filter(|(name, _)| given(name));
        let bits: Vec<usize> = bits.map(|(_, bit)| *bit).collect();
        if !bits.is_empty() {
            found.extend(extension(15, true, &bit_string(&bits)));
        }
        let mut ids: Vec<&[u8]> = Vec::new();
        for (_, id) in EXTENDED_USAGES.iter().filter(|(name, _)| given(name)) {
            if !ids.contains(id) {
                ids.push(id);
            }
        }
        if !ids.is_empty() {
            let ids: Vec<u8> = ids.iter().flat_map(|id| tlv(OID, id)).collect();
            found.extend(extension(37, false, &tlv(SEQUENCE, &ids)));
        }
        found.extend(extension(19, true, &tlv(SEQUENCE, &[])));
        if let Some(id) = &self.key_id {
            let id = tlv(SEQUENCE, &tlv(CONTEXT, id));
            found.extend(extension(35, false, &id));
        }
        if !request.names.is_empty() {
            let names: Vec<u8> = request.names.iter().flat_map(alternative_name).collect();
            found.extend(extension(17, false, &tlv(SEQUENCE, &names)));
        }
        Ok(found)
    }
}

/// The identifier of the algorithm by which a key signs.
fn algorithm(key: &KeyPair) -> Result<Vec<u8>, String> {
    let known: [(_, &[u8], &[u8]); 4] = [
        (
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
            &[],
        ),
        (
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
            &[],
        ),
        (&rcgen::PKCS_ED25519, &[0x2b, 0x65, 0x70], &[]),
        (
            &rcgen::PKCS_RSA_SHA256,
            &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b],
            &[5, 0],
        ),
    ];
    let found = known.iter().find(|(known, ..)| *known == key.algorithm());
    let (_, id, parameters) = found.ok_or("the kind of the CA's key is not known")?;
    Ok(tlv(SEQUENCE, &[&tlv(OID, id), *parameters].concat()))
}

/// An extension whose identifier is 2.5.29.`number`.
fn extension(number: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let mut content = tlv(OID, &[0x55, 0x1d, number]);
    if critical {
        content.extend(tlv(BOOLEAN, &[0xff]));
    }
    content.extend(tlv(OCTET_STRING, value));
    tlv(SEQUENCE, &content)
}

fn alternative_name(name: &AlternativeName) -> Vec<u8> {
    match name {
        AlternativeName::Email(text) => tlv(CONTEXT | 1, text.as_bytes()),
        AlternativeName::Dns(text) => tlv(CONTEXT | 2, text.as_bytes()),
        AlternativeName::Uri(text) => tlv(CONTEXT | 6, text.as_bytes()),
        AlternativeName::Ip(bytes) => tlv(CONTEXT | 7, bytes),
    }
}

/// Bits from the left, without zeros at the end.
fn bit_string(bits: &[usize]) -> Vec<u8> {
    let last = bits.iter().copied().max().unwrap_or(0);
    let mut bytes = vec![0; last / 8 + 1];
    for bit in bits {
        bytes[bit / 8] |= 0x80 >> (bit % 8);
    }
    let unused = u8::try_from(7 - last % 8).unwrap_or(0);
    tlv(BIT_STRING, &[&[unused], bytes.as_slice()].concat())
}

fn time(time: Timestamp) -> Vec<u8> {
    let date = time.to_zoned(jiff::tz::TimeZone::UTC);
    if date.year() < LONG_YEARS {
        let text = date.strftime("%y%m%d%H%M%SZ").to_string();
        return tlv(UTC_TIME, text.as_bytes());
    }
    let text = date.strftime("%Y%m%d%H%M%SZ").to_string();
    tlv(GENERALIZED_TIME, text.as_bytes())
}

/// A tag, a length and a content.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let n_zeros = bytes.iter().take_while(|b| **b == 0).count();
            let bytes = &bytes[n_zeros..];
            out.push(0x80 | u8::try_from(bytes.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(bytes);
        }
    }
    out.extend_from_slice(content);
    out
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    const LINE: usize = 64;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut left = text.as_str();
    while !left.is_empty() {
        let (line, rest) = left.split_at(left.len().min(LINE));
        out.push_str(line);
        out.push('\n');
        left = rest;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
pub(super) mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyUsagePurpose};
    use x509_parser::prelude::FromDer;

    use super::*;

    /// A CA for tests.
    pub fn ca() -> SigningCa {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("a certificate");
        SigningCa {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A request for tests, in PEM.
    pub fn request(common_name: &str, organization: &str, names: &[&str]) -> String {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = &mut params.distinguished_name;
        name.push(DnType::OrganizationName, organization);
        name.push(DnType::CommonName, common_name);
        let request = params.serialize_request(&key).expect("a request");
        request.pem().expect("PEM")
    }

    #[test]
    fn what_is_signed_holds_what_was_asked_for() {
        let ca = ca();
        let authority = Authority::new(&ca).expect("an authority");
        let asked = request("somebody", "team", &["a.example.com", "192.0.2.7"]);
        let asked = Request::parse(asked.as_bytes()).expect("a request");
        let usages = ["digital signature", "decipher only", "client auth"].map(str::to_owned);
        let now = Timestamp::now();
        let life = Duration::from_secs(3600);
        let signed = authority.sign(&asked, &usages, life, now).expect("signed");

        let block = Pem::iter_from_buffer(signed.as_bytes()).next();
        let der = block.expect("a block").expect("PEM").contents;
        let (rest, certificate) = X509Certificate::from_der(&der).expect("DER");
        assert!(rest.is_empty());
        let block = Pem::iter_from_buffer(ca.certificate.as_bytes()).next();
        let ca_der = block.expect("a block").expect("PEM").contents;
        let (_, ca) = X509Certificate::from_der(&ca_der).expect("DER");
        certificate
            .verify_signature(Some(ca.public_key()))
            .expect("signed by the CA");
        assert_eq!(certificate.issuer(), ca.subject());
        assert_eq!(certificate.subject().to_string(), "O=team, CN=somebody");
        let usage = certificate.key_usage().expect("once").expect("there").value;
        assert!(usage.digital_signature() && usage.decipher_only() && !usage.key_cert_sign());
        let usage = certificate
            .extended_key_usage()
            .expect("once")
            .expect("there");
        assert!(usage.value.client_auth && !usage.value.server_auth);
        assert!(!certificate.is_ca());
        let names = certificate.subject_alternative_name().expect("once");
        assert_eq!(names.expect("there").value.general_names.len(), 2);
        let validity = certificate.validity();
        assert_eq!(validity.not_after.timestamp(), now.as_second() + 3600);
        assert_eq!(validity.not_before.timestamp(), now.as_second() - 300);
    }
}
