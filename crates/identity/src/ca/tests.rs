#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use waymark_rt::{ManualClock, SystemClock};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::credentials::{SubjectAltName, certificates};
use crate::csr::Csr;

fn td() -> TrustDomain {
    TrustDomain::default()
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn ca() -> Ca {
    Ca::in_memory(&td(), clock()).unwrap()
}

#[test]
fn makes_a_root_once_and_keeps_it() {
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("a/ca");
    let first = Ca::load_or_create(&dir, &td(), clock()).unwrap();
    let second = Ca::load_or_create(&dir, &td(), clock()).unwrap();
    assert_eq!(first.roots_pem(), second.roots_pem());
    assert_eq!(
        fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert_eq!(
        fs::metadata(dir.join("ca-key.pem"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    let root = certificates(first.roots_pem()).unwrap().remove(0);
    let (_, root) = X509Certificate::from_der(&root).unwrap();
    assert_eq!(root.subject().to_string(), "O=cluster.local");
    assert!(root.is_ca() && root.key_usage().unwrap().unwrap().value.key_cert_sign());
    let years = (root.validity().not_after.timestamp() - root.validity().not_before.timestamp())
        / (365 * 24 * 3600);
    assert_eq!(years, 10);
}

#[test]
fn a_certificate_is_what_the_api_promises() {
    let ca = ca();
    let csr = Csr::new(&id("reviews")).unwrap();
    let issued = ca.sign(csr.pem(), &id("reviews"), None).unwrap();
    assert_eq!(
        issued.chain.len(),
        2,
        "leaf, then roots; the root is no intermediate"
    );
    assert_eq!(issued.chain.last().unwrap(), ca.roots_pem());
    assert!(issued.chain.iter().all(|pem| pem.ends_with('\n')));
    let leaf = certificates(&issued.chain[0]).unwrap().remove(0);
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(
        san.critical && leaf.subject().as_raw().len() == 2,
        "empty subject"
    );
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    assert!(!leaf.is_ca() && leaf.basic_constraints().unwrap().is_some());
    assert_eq!(
        issued.info.subject_alt_names,
        [SubjectAltName::Uri(id("reviews").to_string())]
    );
    assert_eq!(issued.info.serial.len(), 32);
    let validity = issued
        .info
        .not_after
        .duration_since(issued.info.not_before)
        .unwrap();
    assert_eq!(validity, Duration::from_secs(24 * 3600 + 120));
    csr.certify(&issued.chain, SystemTime::now()).unwrap();
}

#[test]
fn serial_numbers_differ() {
    let ca = ca();
    let csr = Csr::new(&id("a")).unwrap();
    let serials: std::collections::BTreeSet<_> = (0..20)
        .map(|_| ca.sign(csr.pem(), &id("a"), None).unwrap().info.serial)
        .collect();
    assert_eq!(serials.len(), 20);
}

#[test]
fn names_in_the_request_are_ignored() {
    let ca = ca();
    let csr = Csr::new(&id("admin")).unwrap();
    let issued = ca.sign(csr.pem(), &id("reviews"), None).unwrap();
    assert_eq!(
        issued.info.subject_alt_names,
        [SubjectAltName::Uri(id("reviews").to_string())]
    );
    let e = csr.certify(&issued.chain, SystemTime::now()).unwrap_err();
    assert!(e.to_string().contains("asked for a certificate for"), "{e}");
}

#[test]
fn only_the_owner_of_a_key_gets_a_certificate_for_it() {
    use rustls::pki_types::CertificateSigningRequestDer;
    use rustls::pki_types::pem::PemObject;
    let csr = Csr::new(&id("reviews")).unwrap();
    let mut der = CertificateSigningRequestDer::from_pem_slice(csr.pem().as_bytes())
        .unwrap()
        .to_vec();
    // A byte of the name: the signature is no longer over what it says.
    let at = der.windows(7).position(|w| w == b"reviews").unwrap();
    der[at] = b'p';
    let pem = to_pem(&CertificateDer::from(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST");
    let e = ca().sign(&pem, &id("reviews"), None).unwrap_err();
    assert!(
        matches!(e, SignError::Request(RequestError::Signature)),
        "{e:?}"
    );
}

#[test]
fn refuses_what_is_no_request() {
    let ca = ca();
    for bad in [
        "",
        "hello",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        ca.roots_pem(),
    ] {
        assert!(
            matches!(ca.sign(bad, &id("a"), None), Err(SignError::Request(_))),
            "{bad}"
        );
    }
}

#[test]
fn refuses_a_key_of_an_unknown_kind() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let pem = CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .pem()
        .unwrap();
    let e = ca().sign(&pem, &id("a"), None).unwrap_err();
    assert!(matches!(e, SignError::Request(RequestError::Key)), "{e:?}");
}

#[test]
fn signs_every_allowed_kind_of_key_whatever_else_the_request_has() {
    let ca = ca();
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new(["evil.example".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(
            &[1, 2, 3, 4],
            vec![5, 0],
        )];
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let issued = ca.sign(&pem, &id("a"), None).unwrap();
        assert!(!issued.info.is_ca);
        assert_eq!(issued.info.subject_alt_names.len(), 1);
    }
}

#[test]
fn validity_has_bounds() {
    let ca = ca();
    let csr = Csr::new(&id("a")).unwrap();
    let hour = ca
        .sign(csr.pem(), &id("a"), Some(Duration::from_secs(3600)))
        .unwrap()
        .info;
    assert_eq!(
        hour.not_after.duration_since(hour.not_before).unwrap(),
        Duration::from_secs(3600 + 120)
    );
    ca.sign(csr.pem(), &id("a"), Some(MAX_TTL)).unwrap();
    let e = ca
        .sign(csr.pem(), &id("a"), Some(MAX_TTL + Duration::from_secs(1)))
        .unwrap_err();
    assert!(matches!(e, SignError::Ttl { .. }), "{e:?}");
}

#[test]
fn never_outlives_the_signer() {
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let ca = Ca::in_memory(&td(), Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let csr = Csr::new(&id("a")).unwrap();
    clock.advance(ROOT_TTL - Duration::from_secs(3600));
    assert_eq!(
        ca.sign(csr.pem(), &id("a"), None).unwrap().info.not_after,
        ca.signer().not_after
    );
    clock.advance(Duration::from_secs(3601));
    assert!(matches!(
        ca.sign(csr.pem(), &id("a"), None),
        Err(SignError::SignerNotValid { .. })
    ));
}

#[test]
fn refuses_identities_of_another_trust_domain() {
    let other = "spiffe://other.example/ns/default/sa/a".parse().unwrap();
    let csr = Csr::new(&other).unwrap();
    assert!(matches!(
        ca().sign(csr.pem(), &other, None),
        Err(SignError::TrustDomain { .. })
    ));
}

/// An operator's authority: a root that is kept elsewhere, and an intermediate that signs.
struct Operator {
    root: String,
    signer: String,
    key: String,
}

fn operator(is_ca: IsCa) -> Operator {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.distinguished_name
        .push(rcgen::DnType::CommonName, "Operator root");
    root.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_cert = root.self_signed(&root_key).unwrap();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut signer = CertificateParams::default();
    signer
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "Operator");
    signer.is_ca = is_ca;
    let signer = signer.signed_by(&key, &issuer).unwrap();
    Operator {
        root: root_cert.pem(),
        signer: signer.pem(),
        key: key.serialize_pem(),
    }
}

fn intermediate() -> IsCa {
    IsCa::Ca(rcgen::BasicConstraints::Constrained(0))
}

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        fs::write(dir.join(name), text).unwrap();
    }
}

#[test]
fn loads_an_operators_intermediate() {
    let operator = operator(intermediate());
    let dir = tempfile::tempdir().unwrap();
    let chain = format!("{}{}", operator.signer, operator.root);
    write(
        dir.path(),
        &[
            ("ca-cert.pem", &operator.signer),
            ("ca-key.pem", &operator.key),
            ("cert-chain.pem", &chain),
            ("root-cert.pem", &operator.root),
        ],
    );
    let ca = Ca::load(dir.path(), &td(), clock()).unwrap();
    let csr = Csr::new(&id("a")).unwrap();
    let issued = ca.sign(csr.pem(), &id("a"), None).unwrap();
    assert_eq!(issued.chain.len(), 3, "leaf, signer, roots");
    let credentials = csr.certify(&issued.chain, SystemTime::now()).unwrap();
    assert_eq!(credentials.chain().len(), 2);
}

#[test]
fn loads_the_layout_of_a_kubernetes_secret() {
    let operator = operator(intermediate());
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            ("tls.crt", &operator.signer),
            ("tls.key", &operator.key),
            ("ca.crt", &operator.root),
        ],
    );
    Ca::load(dir.path(), &td(), clock()).unwrap();
}

#[test]
fn an_incomplete_set_names_what_is_missing() {
    let operator = operator(intermediate());
    let all = [
        ("ca-cert.pem", operator.signer.as_str()),
        ("ca-key.pem", &operator.key),
        ("cert-chain.pem", &operator.signer),
        ("root-cert.pem", &operator.root),
    ];
    for (missing, _) in all {
        let dir = tempfile::tempdir().unwrap();
        let rest: Vec<_> = all
            .into_iter()
            .filter(|(name, _)| *name != missing)
            .collect();
        write(dir.path(), &rest);
        for e in [
            Ca::load(dir.path(), &td(), clock()),
            Ca::load_or_create(dir.path(), &td(), clock()),
        ] {
            let e = e.unwrap_err();
            assert!(
                matches!(&e, CaError::Incomplete { missing: m } if m.ends_with(missing)),
                "{e}"
            );
        }
    }
    let e = Ca::load(tempfile::tempdir().unwrap().path(), &td(), clock()).unwrap_err();
    assert!(matches!(e, CaError::Incomplete { .. }), "{e}");
}

#[test]
fn refuses_sets_that_do_not_fit_together() {
    let (one, two, leaf) = (
        operator(intermediate()),
        operator(intermediate()),
        operator(IsCa::ExplicitNoCa),
    );
    let try_set = |signer: &str, key: &str, root: &str| {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            &[
                ("ca-cert.pem", signer),
                ("ca-key.pem", key),
                ("cert-chain.pem", signer),
                ("root-cert.pem", root),
            ],
        );
        Ca::load(dir.path(), &td(), clock()).unwrap_err()
    };
    assert!(matches!(
        try_set(&one.signer, &two.key, &one.root),
        CaError::KeyOfAnother { .. }
    ));
    assert!(matches!(
        try_set(&one.signer, &one.key, &two.root),
        CaError::Untrusted { .. }
    ));
    assert!(matches!(
        try_set(&leaf.signer, &leaf.key, &leaf.root),
        CaError::NotAnAuthority(_)
    ));
    assert!(matches!(
        try_set("", &one.key, &one.root),
        CaError::Certificate { .. }
    ));
    assert!(matches!(
        try_set(&one.signer, &one.key, ""),
        CaError::Roots { .. }
    ));
    let e = try_set(
        &one.signer,
        "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
        &one.root,
    );
    assert!(
        matches!(&e, CaError::Key(path) if path.ends_with("ca-key.pem")),
        "{e}"
    );
    assert!(!format!("{e:?}").contains("c2VjcmV0"));
}

#[test]
fn no_key_is_ever_printed() {
    let ca = ca();
    let csr = Csr::new(&id("a")).unwrap();
    let credentials = ca.credentials_for(&id("a"), None).unwrap();
    let printed = format!(
        "{ca:?} {csr:?} {credentials:?} {:?}",
        credentials.certified_key()
    );
    assert!(
        !printed.contains("PRIVATE") && !printed.contains("serialized_der"),
        "{printed}"
    );
}

#[test]
fn serving_certificates_have_the_names_of_a_server() {
    let names = [
        ServingName::Dns("istiod.istio-system.svc".to_owned()),
        ServingName::Ip([127, 0, 0, 1].into()),
    ];
    let credentials = ca().serving(&names, None).unwrap();
    let names: Vec<String> = credentials
        .info()
        .subject_alt_names
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["istiod.istio-system.svc", "127.0.0.1"]);
    assert_eq!(credentials.identity(), None);
}
