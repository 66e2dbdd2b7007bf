#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::SystemTime;

use prost_types::{Struct, Value};
use tonic::Code;
use waymark_identity::grpc::PeerInfo;
use waymark_identity::{Csr, TrustDomain};
use waymark_rt::SystemClock;

use super::*;
use crate::token::TokenKey;

/// One node, with one workload on it.
#[derive(Debug)]
struct OneNode;

impl NodeAuthorizer for OneNode {
    fn may_impersonate(&self, _caller: &Caller, identity: &SpiffeId) -> bool {
        *identity == id("reviews")
    }
}

struct Fixture {
    service: CaService,
    tokens: Arc<TokenKey>,
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let tokens =
        Arc::new(TokenKey::load_or_create(&dir.path().join("k"), Arc::new(SystemClock)).unwrap());
    let ca = Ca::in_memory(&TrustDomain::default(), Arc::new(SystemClock)).unwrap();
    let ca = Arc::new(ArcSwap::from_pointee(ca));
    let authenticator = Arc::new(Authenticator::new(
        TrustDomain::default(),
        Tokens::Issued(Arc::clone(&tokens)),
    ));
    let trusted = vec!["istio-system/waymark-node".parse().unwrap()];
    Fixture {
        service: CaService::new(ca, authenticator, Arc::new(OneNode), trusted),
        tokens,
    }
}

struct Call {
    csr: Csr,
    request: Request<IstioCertificateRequest>,
}

fn call(account: &str) -> Call {
    let csr = Csr::new(&id(account)).unwrap();
    let message = IstioCertificateRequest {
        csr: csr.pem().to_owned(),
        validity_duration: 0,
        metadata: None,
    };
    Call {
        csr,
        request: Request::new(message),
    }
}

impl Call {
    fn with_token(mut self, fixture: &Fixture, account: &str) -> Self {
        let token = fixture
            .tokens
            .issue(&account.parse().unwrap(), Duration::from_secs(60));
        self.request
            .metadata_mut()
            .insert("authorization", format!("Bearer {token}").parse().unwrap());
        self
    }

    fn with_certificate(mut self, identities: &[SpiffeId]) -> Self {
        let peer = PeerInfo {
            remote_addr: None,
            local_addr: None,
            tls: true,
            identities: identities.into(),
        };
        self.request.extensions_mut().insert(peer);
        self
    }

    fn impersonating(mut self, identity: Kind) -> Self {
        let value = Value {
            kind: Some(identity),
        };
        let fields = [("ImpersonatedIdentity".to_owned(), value)].into();
        self.request.get_mut().metadata = Some(Struct { fields });
        self
    }

    fn valid_for(mut self, seconds: i64) -> Self {
        self.request.get_mut().validity_duration = seconds;
        self
    }

    async fn send(self, fixture: &Fixture) -> Result<(SpiffeId, Duration), Status> {
        let answer = fixture
            .service
            .create_certificate(self.request)
            .await?
            .into_inner()
            .cert_chain;
        // The fixture's request is for the identity that is expected; certify checks that it is what came.
        let credentials = self.csr.certify(&answer, SystemTime::now()).unwrap();
        Ok((
            credentials.identity().unwrap(),
            credentials.info().remaining(SystemTime::now()),
        ))
    }
}

fn text(s: &str) -> Kind {
    Kind::StringValue(s.to_owned())
}

#[tokio::test]
async fn a_token_gets_a_certificate_for_its_bearer() {
    let f = fixture();
    let (identity, left) = call("reviews")
        .with_token(&f, "default/reviews")
        .send(&f)
        .await
        .unwrap();
    assert_eq!(identity, id("reviews"));
    assert!(left > Duration::from_secs(86_000) && left <= Duration::from_secs(86_400));
    let (_, left) = call("reviews")
        .with_token(&f, "default/reviews")
        .valid_for(600)
        .send(&f)
        .await
        .unwrap();
    assert!(left <= Duration::from_secs(600));
    call("reviews")
        .with_token(&f, "default/reviews")
        .valid_for(-5)
        .send(&f)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_client_certificate_gets_one_for_the_same_identity() {
    let f = fixture();
    call("reviews")
        .with_certificate(&[id("reviews")])
        .send(&f)
        .await
        .unwrap();
    let both = call("reviews")
        .with_certificate(&[id("reviews")])
        .with_token(&f, "default/other");
    assert_eq!(both.send(&f).await.unwrap().0, id("reviews"));
}

#[tokio::test]
async fn an_unknown_caller_is_told_nothing() {
    let f = fixture();
    let foreign = "spiffe://other.example/ns/default/sa/reviews"
        .parse()
        .unwrap();
    let mut basic = call("reviews");
    basic
        .request
        .metadata_mut()
        .insert("authorization", "Basic eDp5".parse().unwrap());
    let cases = [
        call("reviews"),
        call("reviews").with_token(&fixture(), "default/reviews"),
        call("reviews").with_certificate(&[foreign]),
        call("reviews").with_certificate(&[id("a"), id("b")]),
        call("reviews").with_certificate(&[]),
        basic,
    ];
    for (n, case) in cases.into_iter().enumerate() {
        let status = case.send(&f).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unauthenticated, "request authenticate failure"),
            "{n}"
        );
    }
}

#[tokio::test]
async fn a_node_proxy_gets_certificates_of_its_workloads_only() {
    let f = fixture();
    let node = "istio-system/waymark-node";
    let ask = |who: &str, kind: Kind| call("reviews").with_token(&f, who).impersonating(kind);
    ask(node, text(id("reviews").as_str()))
        .send(&f)
        .await
        .unwrap();
    let refused = [
        ask(node, text(id("elsewhere").as_str())),
        ask(node, text("spiffe://other.example/ns/default/sa/reviews")),
        ask(node, text("reviews")),
        ask(node, Kind::BoolValue(true)),
        ask("default/reviews", text(id("reviews").as_str())),
        ask("default/waymark-node", text(id("reviews").as_str())),
    ];
    for (n, case) in refused.into_iter().enumerate() {
        let status = case.send(&f).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{n}");
        assert_eq!(
            status.message(),
            "request impersonation authentication failure",
            "{n}"
        );
    }
}

#[tokio::test]
async fn bad_requests_are_the_callers_fault() {
    let f = fixture();
    let mut bad = call("reviews").with_token(&f, "default/reviews");
    bad.request.get_mut().csr = "hello".to_owned();
    assert_eq!(
        bad.send(&f).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let long = call("reviews")
        .with_token(&f, "default/reviews")
        .valid_for(91 * 86_400);
    assert_eq!(
        long.send(&f).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn everything_is_counted() {
    let f = fixture();
    call("reviews")
        .with_token(&f, "default/reviews")
        .send(&f)
        .await
        .unwrap();
    call("reviews").send(&f).await.unwrap_err();
    let mut bad = call("reviews").with_token(&f, "default/reviews");
    bad.request.get_mut().csr.clear();
    bad.send(&f).await.unwrap_err();
    let mut out = String::new();
    f.service.metrics().write(&mut out, SystemTime::now());
    for line in [
        "citadel_server_csr_count 3",
        "citadel_server_authentication_failure_count 1",
        "citadel_server_csr_parsing_err_count 1",
        "citadel_server_csr_sign_err_count 0",
        "citadel_server_success_cert_issuance_count 1",
    ] {
        assert!(out.lines().any(|l| l == line), "{line} in\n{out}");
    }
    let left = out
        .lines()
        .find_map(|l| l.strip_prefix("citadel_server_root_cert_expiry_seconds "))
        .unwrap();
    assert!(left.parse::<i64>().unwrap() > 9 * 365 * 86_400);
}
