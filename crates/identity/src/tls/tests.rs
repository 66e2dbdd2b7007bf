#![expect(clippy::unwrap_used, reason = "tests")]

use std::io;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use waymark_rt::{Clock, ManualClock, SystemClock};

use super::*;
use crate::ca::{Ca, ServingName};
use crate::roots::Roots;
use crate::spiffe::TrustDomain;

type Pair = (
    server::TlsStream<DuplexStream>,
    client::TlsStream<DuplexStream>,
);

/// What the server and the client say to a handshake. In TLS 1.3 the client is done before the server has looked at its
/// certificate, so the client reads a byte that the server sends when it is content.
async fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Pair, (Option<String>, Option<String>)> {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let serve = async {
        let mut stream = TlsAcceptor::from(server).accept(ours).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        io::Result::Ok(stream)
    };
    let call = async {
        let mut stream = TlsConnector::from(client).connect(name, theirs).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        io::Result::Ok(stream)
    };
    match tokio::join!(serve, call) {
        (Ok(server), Ok(client)) => Ok((server, client)),
        (server, client) => Err((
            server.err().map(|e| e.to_string()),
            client.err().map(|e| e.to_string()),
        )),
    }
}

async fn mesh(
    server: &CertHandle,
    admits: PeerPolicy,
    client: &CertHandle,
    expects: Expected,
) -> Result<Pair, (Option<String>, Option<String>)> {
    handshake(
        server_config(server, admits),
        client_config(client, expects),
        no_name(),
    )
    .await
}

fn td() -> TrustDomain {
    TrustDomain::default()
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

fn ca() -> Ca {
    Ca::in_memory(&td(), Arc::new(SystemClock)).unwrap()
}

fn handle(ca: &Ca, account: &str) -> CertHandle {
    CertHandle::fixed(ca.credentials_for(&id(account), None).unwrap())
}

fn ours() -> PeerPolicy {
    PeerPolicy::trust_domain(td())
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let ca = ca();
    let (server, client) = (handle(&ca, "reviews"), handle(&ca, "productpage"));
    let (s, c) = mesh(&server, ours(), &client, Expected::any_of([id("reviews")]))
        .await
        .unwrap();
    let (_, s) = s.get_ref();
    let (_, c) = c.get_ref();
    assert_eq!(
        peer_identity(s.peer_certificates().unwrap()),
        Some(id("productpage"))
    );
    assert_eq!(
        peer_identity(c.peer_certificates().unwrap()),
        Some(id("reviews"))
    );
    assert_eq!(s.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(s.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(
        s.negotiated_cipher_suite().unwrap().suite(),
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
    );
    assert_eq!(s.server_name(), None, "no SNI");
    assert_eq!(c.tls13_tickets_received(), 0);
}

#[tokio::test]
async fn rejects_foreign_trust_domain() {
    // The same root signs for two trust domains, so only the name differs.
    let dir = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ca = Ca::load_or_create(dir.path(), &td(), Arc::clone(&clock)).unwrap();
    let foreign = Ca::load(dir.path(), &"other.example".parse().unwrap(), clock).unwrap();
    let stranger = "spiffe://other.example/ns/default/sa/productpage"
        .parse()
        .unwrap();
    let stranger = CertHandle::fixed(foreign.credentials_for(&stranger, None).unwrap());
    let server = handle(&ca, "reviews");
    let (s, _) = mesh(&server, ours(), &stranger, Expected::AnyTrusted)
        .await
        .unwrap_err();
    let s = s.unwrap();
    assert!(s.contains("expected trustdomain (cluster.local), got spiffe://other.example/ns/default/sa/productpage"), "{s}");
    mesh(
        &server,
        PeerPolicy::TrustDomains(vec![td(), "other.example".parse().unwrap()]),
        &stranger,
        ours(),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn rejects_a_foreign_authority_on_both_sides() {
    let (ca, foreign) = (ca(), ca());
    let (server, stranger) = (handle(&ca, "reviews"), handle(&foreign, "productpage"));
    let (s, c) = mesh(&server, ours(), &stranger, Expected::AnyTrusted)
        .await
        .unwrap_err();
    assert!(s.is_some() && c.unwrap().contains("UnknownIssuer"));
    // A client that would take anybody: the server refuses it all the same.
    let friend = handle(&ca, "productpage").current().unwrap();
    let careless = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(TLS13)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(MeshVerifier::new(
            CertHandle::fixed((*friend).clone()),
            PeerPolicy::AnyTrusted,
        )))
        .with_client_cert_resolver(Arc::new(Current(stranger)));
    let (s, _) = handshake(
        server_config(&server, ours()),
        Arc::new(careless),
        no_name(),
    )
    .await
    .unwrap_err();
    assert!(s.unwrap().contains("UnknownIssuer"));
}

#[tokio::test]
async fn rejects_a_client_without_a_certificate() {
    let ca = ca();
    let server = handle(&ca, "reviews");
    let anonymous = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(TLS13)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(MeshVerifier::new(
            server.clone(),
            PeerPolicy::AnyTrusted,
        )))
        .with_no_client_auth();
    let (s, _) = handshake(
        server_config(&server, ours()),
        Arc::new(anonymous),
        no_name(),
    )
    .await
    .unwrap_err();
    assert!(
        s.unwrap().contains("no certificates"),
        "the client showed nothing"
    );
}

#[tokio::test]
async fn rejects_an_expired_certificate() {
    let long_ago = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    let clock = Arc::new(ManualClock::new(long_ago));
    let ca = Ca::in_memory(&td(), Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    let expired = handle(&ca, "productpage");
    clock.set_wall(SystemTime::now());
    let fresh = handle(&ca, "reviews");
    let (s, _) = mesh(&fresh, ours(), &expired, Expected::AnyTrusted)
        .await
        .unwrap_err();
    assert!(s.unwrap().contains("expired"));
    let (_, c) = mesh(&expired, ours(), &fresh, Expected::AnyTrusted)
        .await
        .unwrap_err();
    assert!(c.unwrap().contains("expired"));
}

#[tokio::test]
async fn a_client_takes_only_whom_it_expects() {
    let ca = ca();
    let (server, client) = (handle(&ca, "reviews"), handle(&ca, "productpage"));
    let admitted = [
        Expected::any_of([id("ratings"), id("reviews")]),
        Expected::namespace(&td(), "default"),
        Expected::Prefixes(vec!["spiffe://cluster.local/".to_owned()]),
        Expected::AnyTrusted,
    ];
    for expected in admitted {
        mesh(&server, ours(), &client, expected).await.unwrap();
    }
    let refused = [
        Expected::any_of([id("ratings")]),
        Expected::any_of([]),
        Expected::namespace(&td(), "other"),
        Expected::Prefixes(vec![]),
        Expected::TrustDomains(vec![]),
    ];
    for expected in refused {
        let (_, c) = mesh(&server, ours(), &client, expected.clone())
            .await
            .unwrap_err();
        let c = c.unwrap();
        assert!(
            c.contains("identity verification error")
                && c.contains("got spiffe://cluster.local/ns/default/sa/reviews"),
            "{expected:?}: {c}"
        );
    }
}

#[tokio::test]
async fn a_namespace_is_not_a_prefix_of_another() {
    let expected = Expected::namespace(&td(), "def");
    let ca = ca();
    mesh(&handle(&ca, "a"), ours(), &handle(&ca, "b"), expected)
        .await
        .unwrap_err();
}

#[tokio::test]
async fn rotation_drops_nothing_and_counts_from_the_next_handshake() {
    let ca = ca();
    let (server, client) = (handle(&ca, "reviews"), handle(&ca, "productpage"));
    let (s, c) = (
        server_config(&server, ours()),
        client_config(&client, ours()),
    );
    let (mut old_s, mut old_c) = handshake(Arc::clone(&s), Arc::clone(&c), no_name())
        .await
        .unwrap();
    let serial = |pair: &client::TlsStream<DuplexStream>| {
        crate::CertInfo::of(&pair.get_ref().1.peer_certificates().unwrap()[0])
            .unwrap()
            .serial
    };
    let before = serial(&old_c);
    let renewed = Arc::new(ca.credentials_for(&id("reviews"), None).unwrap());
    server.publish(Arc::clone(&renewed), None);
    let (_, new_c) = handshake(s, c, no_name()).await.unwrap();
    assert_ne!(before, serial(&new_c));
    assert_eq!(renewed.info().serial, serial(&new_c));
    old_c.write_all(b"still here").await.unwrap();
    old_c.flush().await.unwrap();
    let mut text = [0; 10];
    old_s.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"still here");
}

#[tokio::test]
async fn new_roots_count_from_the_next_handshake() {
    let (old, new) = (ca(), ca());
    let (server, client) = (handle(&old, "reviews"), handle(&old, "productpage"));
    let (s, c) = (
        server_config(&server, ours()),
        client_config(&client, ours()),
    );
    handshake(Arc::clone(&s), Arc::clone(&c), no_name())
        .await
        .unwrap();
    server.publish(
        Arc::new(new.credentials_for(&id("reviews"), None).unwrap()),
        None,
    );
    handshake(Arc::clone(&s), Arc::clone(&c), no_name())
        .await
        .unwrap_err();
    client.publish(
        Arc::new(new.credentials_for(&id("productpage"), None).unwrap()),
        None,
    );
    handshake(s, c, no_name()).await.unwrap();
}

#[tokio::test]
async fn without_a_certificate_a_handshake_fails() {
    let ca = ca();
    let empty = CertHandle::initializing(Some(id("reviews")));
    mesh(&empty, ours(), &handle(&ca, "productpage"), ours())
        .await
        .unwrap_err();
    mesh(&handle(&ca, "reviews"), ours(), &empty, ours())
        .await
        .unwrap_err();
}

#[tokio::test]
async fn rejects_tls_1_2() {
    let ca = ca();
    let server = handle(&ca, "reviews");
    let old = ClientConfig::builder_with_provider(https_provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(MeshVerifier::new(
            server.clone(),
            PeerPolicy::AnyTrusted,
        )))
        .with_client_cert_resolver(Arc::new(Current(server.clone())));
    let (s, _) = handshake(server_config(&server, ours()), Arc::new(old), no_name())
        .await
        .unwrap_err();
    assert!(s.is_some());
}

#[tokio::test]
async fn rejects_other_protocols_than_h2() {
    let ca = ca();
    let mut other = ClientConfig::clone(&client_config(&handle(&ca, "productpage"), ours()));
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    handshake(
        server_config(&handle(&ca, "reviews"), ours()),
        Arc::new(other.clone()),
        no_name(),
    )
    .await
    .unwrap_err();
    other.alpn_protocols = vec![];
    handshake(
        server_config(&handle(&ca, "reviews"), ours()),
        Arc::new(other),
        no_name(),
    )
    .await
    .unwrap();
}

#[test]
fn a_verified_chain_is_remembered_but_not_beyond_its_end() {
    let ca = ca();
    let credentials = ca
        .credentials_for(&id("a"), Some(Duration::from_secs(3600)))
        .unwrap();
    let roots = Roots::from_pem(ca.roots_pem()).unwrap();
    let verify = |at| {
        roots.verify(
            &credentials.chain()[0],
            &[],
            crate::roots::Usage::Client,
            crate::roots::unix_time(at),
        )
    };
    let now = SystemTime::now();
    verify(now).unwrap();
    verify(now).unwrap();
    assert!(verify(now + Duration::from_secs(3601)).is_err());
    assert!(
        verify(now - Duration::from_secs(3600)).is_err(),
        "before it began"
    );
    assert!(
        Roots::from_pem(ca_other().roots_pem())
            .unwrap()
            .verify(
                &credentials.chain()[0],
                &[],
                crate::roots::Usage::Client,
                crate::roots::unix_time(now)
            )
            .is_err()
    );
}

fn ca_other() -> Ca {
    ca()
}

fn dns(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).unwrap()
}

#[tokio::test]
async fn the_control_plane_is_verified_by_host_name_and_root_file() {
    let ca = ca();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root-cert.pem");
    let serving = CertHandle::fixed(
        ca.serving(
            &[
                ServingName::Dns("istiod.istio-system.svc".to_owned()),
                ServingName::Ip([127, 0, 0, 1].into()),
            ],
            None,
        )
        .unwrap(),
    );
    let server = https_server_config(&serving);
    let client = https_client_config(RootSource::file(&path), None);
    let (_, c) = handshake(Arc::clone(&server), Arc::clone(&client), dns("127.0.0.1"))
        .await
        .unwrap_err();
    assert!(c.unwrap().contains("read the root certificates in"));
    std::fs::write(&path, ca.roots_pem()).unwrap();
    for name in ["127.0.0.1", "istiod.istio-system.svc"] {
        let (s, _) = handshake(Arc::clone(&server), Arc::clone(&client), dns(name))
            .await
            .unwrap();
        assert!(s.get_ref().1.peer_certificates().is_none());
    }
    let (_, c) = handshake(
        Arc::clone(&server),
        Arc::clone(&client),
        dns("elsewhere.example"),
    )
    .await
    .unwrap_err();
    assert!(c.unwrap().contains("NotValidForName"));
    std::fs::write(&path, ca_other().roots_pem()).unwrap();
    let (_, c) = handshake(server, client, dns("127.0.0.1"))
        .await
        .unwrap_err();
    assert!(c.unwrap().contains("UnknownIssuer"));
}

#[tokio::test]
async fn a_client_certificate_for_the_control_plane_is_optional_but_verified() {
    let ca = ca();
    let serving = CertHandle::fixed(
        ca.serving(&[ServingName::Ip([127, 0, 0, 1].into())], None)
            .unwrap(),
    );
    let server = https_server_config(&serving);
    let roots = RootSource::fixed(Arc::clone(ca.roots()));
    let own = https_client_config(roots.clone(), Some(handle(&ca, "waypoint")));
    let (s, _) = handshake(Arc::clone(&server), own, dns("127.0.0.1"))
        .await
        .unwrap();
    assert_eq!(
        peer_identity(s.get_ref().1.peer_certificates().unwrap()),
        Some(id("waypoint"))
    );
    let foreign = https_client_config(roots, Some(handle(&ca_other(), "waypoint")));
    let (s, _) = handshake(server, foreign, dns("127.0.0.1"))
        .await
        .unwrap_err();
    assert!(s.unwrap().contains("UnknownIssuer"));
}
