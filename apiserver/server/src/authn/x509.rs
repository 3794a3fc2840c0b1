//! The user that a client certificate names: common name and organizations.
//!
//! A handshake takes any certificate whose key the client has. Who signed it is looked at when somebody wants to know who
//! asks: one who is not believed by their certificate may be by a token.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::der_parser::{Oid, oid};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

use super::{AUTHENTICATED, User};

/// The attribute of a subject that holds the user's uid, as Kubernetes registered it.
const UID: Oid<'static> = oid!(1.3.6.1.4.1.57683.2);
/// The purpose of certificates that are good for any (RFC 5280, 4.2.1.12), in DER.
const ANY_PURPOSE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

/// Reads the user off a certificate that is known to be good; nobody if it has no name.
///
/// # Errors
/// When it cannot be told which uid the user has.
pub fn user(der: &[u8]) -> Result<Option<User>, &'static str> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "it cannot be read")?;
    let subject = certificate.subject();
    let name = common_name(subject);
    if name.is_empty() {
        return Ok(None);
    }
    let mut uids = subject.iter_by_oid(&UID);
    let uid = match (uids.next(), uids.next()) {
        (None, _) => String::new(),
        (Some(uid), None) => uid.as_str().map_err(|_| "its uid is no text")?.to_owned(),
        (Some(_), Some(_)) => return Err("it has several uids"),
    };
    let organizations = subject.iter_organization().filter_map(|o| o.as_str().ok());
    let mut groups: Vec<String> = organizations.map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    let digest = Sha256::digest(der);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut user = User {
        name,
        uid,
        groups,
        ..Default::default()
    };
    let key = "authentication.kubernetes.io/credential-id".to_owned();
    user.extra.insert(key, vec![format!("X509SHA256={digest}")]);
    Ok(Some(user))
}

/// The common name that counts: of several the last, as Go reads them.
fn common_name(subject: &X509Name<'_>) -> String {
    let names = subject.iter_common_name();
    let texts = names.filter_map(|name| name.as_str().ok());
    texts.last().unwrap_or_default().to_owned()
}

/// Who may sign certificates that clients show.
pub struct Signers {
    users: RootCertStore,
    proxies: Option<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// What a certificate tells, by the signers of a time.
#[derive(Debug, Default)]
pub struct Shown {
    /// The user whom it names.
    pub user: Option<User>,
    /// The name of the proxy whose it is.
    pub proxy: Option<String>,
    /// Whether it is not what it should be: who shows it is not taken for nobody in particular.
    pub refused: bool,
}

impl Signers {
    /// The cluster's own CA, and that of proxies.
    pub fn new(
        users: RootCertStore,
        proxies: Option<RootCertStore>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self {
            users,
            proxies,
            algorithms,
        }
    }

    fn look(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Shown {
        let mut shown = Shown::default();
        let Some((first, more)) = chain.split_first() else {
            return shown;
        };
        match self.verify(first, more, &self.users, now) {
            Ok(()) => match user(first) {
                Ok(user) => shown.user = user,
                Err(why) => shown.refuse(why),
            },
            Err(error) => shown.refuse(error),
        }
        let Some(proxies) = &self.proxies else {
            return shown;
        };
        match self.verify(first, more, proxies, now) {
            Ok(()) => {
                let read = X509Certificate::from_der(first);
                shown.proxy = read.ok().map(|(_, read)| common_name(read.subject()));
            }
            Err(error) => shown.refuse(error),
        }
        shown
    }

    /// Whether a certificate for clients was signed by one of the roots.
    fn verify(
        &self,
        first: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        roots: &RootCertStore,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let certificate = EndEntityCert::try_from(first)?;
        let verify = |usage: KeyUsage| {
            let algorithms = self.algorithms.all;
            let roots = &roots.roots;
            let verified =
                certificate.verify_for_usage(algorithms, roots, more, now, usage, None, None);
            verified.map(drop)
        };
        verify(KeyUsage::client_auth())
            .or_else(|error| verify(KeyUsage::required(ANY_PURPOSE)).map_err(|_| error))
    }
}

impl Shown {
    fn refuse(&mut self, why: impl std::fmt::Display) {
        tracing::debug!(%why, "a certificate is refused");
        self.refused = true;
    }
}

/// What is at the other end of a connection.
#[derive(Default)]
pub struct Peer {
    /// The certificate that it showed, and those with it.
    chain: Vec<CertificateDer<'static>>,
    /// What the certificate was found to tell.
    seen: Mutex<Option<Seen>>,
}

/// What was found out, and as long as what it holds.
struct Seen {
    shown: Arc<Shown>,
    /// By whom; kept, so that no others can be at the same address.
    signers: Arc<Signers>,
    /// From when to when, in seconds of Unix time.
    times: std::ops::Range<u64>,
    /// The last second in which the certificate is good, of Unix time.
    ends: Option<i64>,
}

impl Peer {
    /// Who showed certificates whose first one's key it has.
    pub fn new(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let chain = chain.unwrap_or_default().iter();
        Self {
            chain: chain.map(|one| one.clone().into_owned()).collect(),
            seen: Mutex::default(),
        }
    }

    /// What the certificate tells now. It is looked at once for all requests, and again when others sign or the time has
    /// come at which it is good no longer.
    pub(super) fn shown(&self, signers: &Arc<Signers>) -> Option<Arc<Shown>> {
        if self.chain.is_empty() {
            return None;
        }
        let now = UnixTime::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.as_ref().filter(|seen| {
            Arc::ptr_eq(&seen.signers, signers) && seen.times.contains(&now.as_secs())
        });
        if let Some(known) = known {
            return Some(known.shown.clone());
        }
        let shown = Arc::new(signers.look(&self.chain, now));
        *seen = Some(Seen {
            shown: shown.clone(),
            signers: signers.clone(),
            times: unchanging(&self.chain, now.as_secs()),
            ends: self.chain.first().and_then(|first| {
                let (_, read) = X509Certificate::from_der(first).ok()?;
                Some(read.validity().not_after.timestamp())
            }),
        });
        Some(shown)
    }

    /// For how many seconds the certificate is good, once it was looked at.
    pub fn seconds_left(&self, now: Timestamp) -> Option<f64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = seen.as_ref()?.ends?;
        Some(ends as f64 - now.as_duration().as_secs_f64())
    }
}

/// The time around now in which no certificate begins or ends to be good.
fn unchanging(chain: &[CertificateDer<'_>], now: u64) -> std::ops::Range<u64> {
    let mut times = 0..u64::MAX;
    for certificate in chain {
        let Ok((_, read)) = X509Certificate::from_der(certificate) else {
            continue;
        };
        let validity = read.validity();
        let seconds = |time: i64| u64::try_from(time).unwrap_or_default();
        let begins = seconds(validity.not_before.timestamp());
        // It is good in its last second.
        let ends = seconds(validity.not_after.timestamp()).saturating_add(1);
        for turn in [begins, ends] {
            match turn > now {
                true => times.end = times.end.min(turn),
                false => times.start = times.start.max(turn),
            }
        }
    }
    times
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
        ExtendedKeyUsagePurpose, IsCa, KeyPair,
    };

    use super::*;

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    fn issuer() -> Issuer {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        CertifiedIssuer::self_signed(params, key).expect("a certificate")
    }

    fn signers(issuer: &Issuer) -> Arc<Signers> {
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone()).expect("a certificate");
        let algorithms = rustls::crypto::aws_lc_rs::default_provider();
        let algorithms = algorithms.signature_verification_algorithms;
        Arc::new(Signers::new(roots, None, algorithms))
    }

    fn named(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    fn shown(params: CertificateParams, by: &Issuer) -> Arc<Shown> {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, by).expect("a certificate");
        let peer = Peer::new(Some(&[certificate.der().clone()]));
        peer.shown(&signers(by)).expect("something is shown")
    }

    #[test]
    fn a_certificate_may_name_a_uid_and_only_one() {
        let by = issuer();
        let uid = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
        let mut params = named("jane");
        params.distinguished_name.push(uid, "u1");
        let user = shown(params, &by).user.clone().expect("a user");
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("jane", "u1"));
    }

    #[test]
    fn a_certificate_must_be_for_clients_or_for_anything() {
        let by = issuer();
        let purposes = [
            (vec![], true),
            (vec![ExtendedKeyUsagePurpose::ClientAuth], true),
            (vec![ExtendedKeyUsagePurpose::Any], true),
            (vec![ExtendedKeyUsagePurpose::ServerAuth], false),
        ];
        for (purposes, good) in purposes {
            let mut params = named("jane");
            params.extended_key_usages.clone_from(&purposes);
            let shown = shown(params, &by);
            assert_eq!(shown.user.is_some(), good, "{purposes:?}");
            assert_eq!(shown.refused, !good, "{purposes:?}");
        }
    }

    #[test]
    fn a_certificate_without_a_name_is_good_and_names_nobody() {
        let shown = shown(named(""), &issuer());
        assert!(shown.user.is_none() && !shown.refused);
    }

    #[test]
    fn a_certificate_is_looked_at_again_when_others_sign() {
        let (by, others) = (signers(&issuer()), signers(&issuer()));
        let stranger = issuer();
        let peer = Peer::new(Some(&[stranger.der().clone()]));
        let first = peer.shown(&by).expect("something is shown");
        let again = peer.shown(&by).expect("something is shown");
        assert!(first.refused && Arc::ptr_eq(&first, &again));
        let last = peer.shown(&others).expect("something is shown");
        assert!(!Arc::ptr_eq(&first, &last));
    }

    #[test]
    fn what_a_certificate_tells_holds_until_it_ends() {
        let mut params = named("jane");
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        let (begins, ends) = (946_684_800, 978_307_200);
        let around = |now| unchanging(std::slice::from_ref(made.der()), now);
        assert_eq!(around(begins - 1), 0..begins);
        assert_eq!(around(ends), begins..ends + 1);
        assert_eq!(around(ends + 1), ends + 1..u64::MAX);
    }
}
