#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost::Message;
use waymark_identity::{Ca, Credentials, Csr, KeyExport, SpiffeId};
use waymark_proto::envoy::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use waymark_proto::envoy::google::rpc::Status as RpcStatus;
use waymark_rt::SystemClock;

use super::*;

fn ca() -> Ca {
    Ca::in_memory(&"cluster.local".parse().unwrap(), Arc::new(SystemClock)).unwrap()
}

fn credentials(ca: &Ca, export: KeyExport) -> Credentials {
    let identity: SpiffeId = "spiffe://cluster.local/ns/default/sa/w".parse().unwrap();
    let csr = Csr::with_export(&identity, export).unwrap();
    let issued = ca
        .sign(csr.pem(), &identity, Some(Duration::from_secs(3600)))
        .unwrap();
    csr.certify(&issued.chain, SystemTime::now()).unwrap()
}

fn secrets(ca: &Ca) -> Secrets {
    Secrets::of(&credentials(ca, KeyExport::Allowed)).unwrap()
}

fn delta(nonce: &str, subscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        response_nonce: nonce.to_owned(),
        resource_names_subscribe: subscribe.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn sotw(nonce: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        response_nonce: nonce.to_owned(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        ..DiscoveryRequest::default()
    }
}

fn names(answer: &DeltaDiscoveryResponse) -> Vec<&str> {
    answer.resources.iter().map(|r| r.name.as_str()).collect()
}

#[test]
fn a_key_that_may_not_be_exported_is_not_served() {
    let ca = ca();
    assert!(Secrets::of(&credentials(&ca, KeyExport::Never)).is_none());
}

#[test]
fn the_secrets_are_the_certificate_with_its_key_and_the_roots() {
    let ca = ca();
    let secrets = secrets(&ca);
    let mut stream = SecretStream::<StateOfTheWorld>::default();
    let answer = stream
        .take(sotw("", &["default", "ROOTCA"]), Some(&secrets))
        .unwrap();
    let kinds: Vec<Secret> = answer
        .resources
        .iter()
        .map(|any| Secret::decode(any.value.as_slice()).unwrap())
        .collect();
    let of = |name: &str| {
        kinds
            .iter()
            .find(|s| s.name == name)
            .unwrap()
            .r#type
            .clone()
            .unwrap()
    };
    let secret::Type::TlsCertificate(certificate) = of("default") else {
        panic!("no certificate")
    };
    let secret::Type::ValidationContext(roots) = of("ROOTCA") else {
        panic!("no roots")
    };
    let text = |source: Option<waymark_proto::envoy::envoy::config::core::v3::DataSource>| {
        use waymark_proto::envoy::envoy::config::core::v3::data_source::Specifier;
        match source.unwrap().specifier.unwrap() {
            Specifier::InlineBytes(bytes) => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    // Key, chain and roots fit together.
    let (key, chain, roots) = (
        text(certificate.private_key),
        text(certificate.certificate_chain),
        text(roots.trusted_ca),
    );
    let now = SystemTime::now();
    Credentials::from_pem(&key, &chain, &roots, now).unwrap();
    assert_eq!(roots, ca.roots_pem());
}

#[test]
fn waits_for_the_certificate_then_pushes_it_and_each_rotation_once() {
    let ca = ca();
    let mut stream = SecretStream::<Delta>::default();
    assert!(stream.take(delta("", &["default"]), None).is_none());
    let first = secrets(&ca);
    let answer = stream.changed(Some(&first)).unwrap();
    assert_eq!(names(&answer), ["default"]);
    assert!(
        stream
            .take(delta(&answer.nonce, &[]), Some(&first))
            .is_none()
    );
    assert!(stream.changed(Some(&first)).is_none());
    let second = secrets(&ca);
    let again = stream.changed(Some(&second)).unwrap();
    assert_eq!(names(&again), ["default"]);
    assert_ne!(again.resources[0].version, answer.resources[0].version);
    assert_ne!(again.nonce, answer.nonce);
}

#[test]
fn a_rotation_with_the_same_roots_pushes_the_certificate_alone() {
    let ca = ca();
    let mut stream = SecretStream::<Delta>::default();
    let (first, second) = (secrets(&ca), secrets(&ca));
    assert_eq!(
        names(
            &stream
                .take(delta("", &["ROOTCA", "default"]), Some(&first))
                .unwrap()
        ),
        ["ROOTCA", "default"]
    );
    assert_eq!(names(&stream.changed(Some(&second)).unwrap()), ["default"]);
    let mut stream = SecretStream::<StateOfTheWorld>::default();
    stream.take(sotw("", &["ROOTCA"]), Some(&first)).unwrap();
    assert!(stream.changed(Some(&second)).is_none());
}

#[test]
fn a_refusal_is_not_answered_with_the_same_again() {
    let ca = ca();
    let secrets = secrets(&ca);
    let mut stream = SecretStream::<StateOfTheWorld>::default();
    let answer = stream.take(sotw("", &["default"]), Some(&secrets)).unwrap();
    let mut nack = sotw(&answer.nonce, &["default"]);
    nack.error_detail = Some(RpcStatus {
        message: "bad".to_owned(),
        ..RpcStatus::default()
    });
    assert!(stream.take(nack, Some(&secrets)).is_none());
}

#[test]
fn a_stale_request_changes_nothing() {
    let ca = ca();
    let secrets = secrets(&ca);
    let mut stream = SecretStream::<StateOfTheWorld>::default();
    stream.take(sotw("", &["default"]), Some(&secrets)).unwrap();
    assert!(
        stream
            .take(sotw("77", &["default", "ROOTCA"]), Some(&secrets))
            .is_none()
    );
    let answer = stream
        .take(sotw("1", &["default", "ROOTCA"]), Some(&secrets))
        .unwrap();
    assert_eq!(answer.resources.len(), 2, "the state of the world is whole");
}

#[test]
fn an_unsubscribed_secret_is_not_pushed_and_asking_again_sends_it_again() {
    let ca = ca();
    let (first, second) = (secrets(&ca), secrets(&ca));
    let mut stream = SecretStream::<Delta>::default();
    stream.take(delta("", &["default"]), Some(&first)).unwrap();
    let gone = DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["default".to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    assert!(stream.take(gone, Some(&first)).is_none());
    assert!(stream.changed(Some(&second)).is_none());
    assert_eq!(
        names(&stream.take(delta("", &["default"]), Some(&second)).unwrap()),
        ["default"]
    );
}

#[test]
fn a_client_that_comes_back_with_the_same_version_is_sent_nothing() {
    let ca = ca();
    let secrets = secrets(&ca);
    let version = secrets.get("default").unwrap().version.clone();
    let mut request = delta("", &["default"]);
    request
        .initial_resource_versions
        .insert("default".to_owned(), version);
    assert!(
        SecretStream::<Delta>::default()
            .take(request, Some(&secrets))
            .is_none()
    );
}

#[test]
fn an_unknown_name_is_said_to_be_none() {
    let ca = ca();
    let secrets = secrets(&ca);
    let answer = SecretStream::<Delta>::default()
        .take(delta("", &["kubernetes://x"]), Some(&secrets))
        .unwrap();
    assert_eq!(answer.removed_resources, ["kubernetes://x"]);
    // The state of the world has no word for it.
    let mut stream = SecretStream::<StateOfTheWorld>::default();
    assert!(
        stream
            .take(sotw("", &["kubernetes://x"]), Some(&secrets))
            .is_none()
    );
    let answer = stream
        .take(sotw("", &["kubernetes://x", "default"]), Some(&secrets))
        .unwrap();
    assert_eq!(answer.resources.len(), 1);
    assert!(
        stream
            .take(
                sotw(&answer.nonce, &["kubernetes://x", "default"]),
                Some(&secrets)
            )
            .is_none()
    );
}
