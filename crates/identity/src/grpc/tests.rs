#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::Ipv4Addr;

use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};
use waymark_proto::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use waymark_proto::auth::{IstioCertificateRequest, IstioCertificateResponse};
use waymark_rt::{Drain, ListenOptions, SystemClock, listen, spawn};

use super::*;
use crate::ca::{Ca, ServingName};
use crate::client::{BearerToken, CaClient, CaClientOptions, IMPERSONATED_IDENTITY};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::store::{CertHandle, CertSource, CertStore, FetchError, StoreOptions};
use crate::tls::{RootSource, https_client_config, https_server_config};

/// Signs for whoever has the token, or for the identity in the client certificate.
struct Service {
    ca: Arc<Ca>,
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let peer = request.extensions().get::<PeerInfo>().unwrap().clone();
        assert!(peer.tls && peer.remote_addr.is_some());
        let by_token = request
            .metadata()
            .get("authorization")
            .is_some_and(|v| v == "Bearer good");
        let message = request.into_inner();
        let impersonated = message
            .metadata
            .as_ref()
            .and_then(|m| m.fields.get(IMPERSONATED_IDENTITY))
            .and_then(|v| match &v.kind {
                Some(prost_types::value::Kind::StringValue(s)) => {
                    Some(s.parse::<SpiffeId>().unwrap())
                }
                _ => None,
            });
        let caller = peer
            .identities
            .first()
            .cloned()
            .or_else(|| by_token.then(|| id("caller")));
        let Some(caller) = caller else {
            return Err(Status::unauthenticated("request authenticate failure"));
        };
        let issued = self
            .ca
            .sign(&message.csr, &impersonated.unwrap_or(caller), None)
            .unwrap();
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: issued.chain,
        }))
    }
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

struct Running {
    ca: Arc<Ca>,
    target: Target,
    drain: Drain,
    server: waymark_rt::Task<Result<(), tonic::transport::Error>>,
}

fn start() -> Running {
    let ca = Arc::new(Ca::in_memory(&TrustDomain::default(), Arc::new(SystemClock)).unwrap());
    let serving = CertHandle::fixed(
        ca.serving(&[ServingName::Ip(Ipv4Addr::LOCALHOST.into())], None)
            .unwrap(),
    );
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default()).unwrap();
    let address = listener.local_addr().to_string();
    let drain = Drain::new(Duration::from_secs(5));
    let incoming = Incoming::tls(listener, https_server_config(&serving), drain.shutdown());
    let service = IstioCertificateServiceServer::new(Service {
        ca: Arc::clone(&ca),
    });
    let shutdown = drain.shutdown();
    let server = spawn("server", async move {
        Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, async move { shutdown.draining().await })
            .await
    });
    let config = https_client_config(RootSource::fixed(Arc::clone(ca.roots())), None);
    let target = Target {
        address,
        tls: Some(TargetTls { config, name: None }),
    };
    Running {
        ca,
        target,
        drain,
        server,
    }
}

impl Running {
    fn client(&self, options: CaClientOptions) -> CaClient {
        CaClient::new(channel(&self.target).unwrap(), options)
    }

    async fn stop(self) {
        self.drain.finish().await;
        self.server.await.unwrap().unwrap();
    }
}

fn token(text: &str) -> Option<BearerToken> {
    Some(BearerToken::Literal(text.to_owned()))
}

#[tokio::test]
async fn a_certificate_over_the_wire() {
    let running = start();
    let client = running.client(CaClientOptions {
        token: token("good"),
        ..CaClientOptions::default()
    });
    let store = CertStore::new(Arc::new(client), StoreOptions::default());
    let credentials = store.handle(&id("caller")).ready().await.unwrap();
    assert_eq!(credentials.identity(), Some(id("caller")));
    drop(store);
    running.stop().await;
}

#[tokio::test]
async fn a_node_proxy_asks_for_others() {
    let running = start();
    let options = CaClientOptions {
        token: token("good"),
        own: Some(id("caller")),
        ..CaClientOptions::default()
    };
    let store = CertStore::new(Arc::new(running.client(options)), StoreOptions::default());
    for name in ["caller", "reviews"] {
        assert_eq!(
            store.handle(&id(name)).ready().await.unwrap().identity(),
            Some(id(name))
        );
    }
    drop(store);
    running.stop().await;
}

#[tokio::test]
async fn a_client_certificate_is_seen_by_the_service() {
    let mut running = start();
    let own = CertHandle::fixed(running.ca.credentials_for(&id("waypoint"), None).unwrap());
    let config = https_client_config(RootSource::fixed(Arc::clone(running.ca.roots())), Some(own));
    running.target.tls = Some(TargetTls { config, name: None });
    let store = CertStore::new(
        Arc::new(running.client(CaClientOptions::default())),
        StoreOptions::default(),
    );
    store.handle(&id("waypoint")).ready().await.unwrap();
    drop(store);
    running.stop().await;
}

#[tokio::test]
async fn a_refusal_has_its_code_and_no_token_in_it() {
    let running = start();
    let client = running.client(CaClientOptions {
        token: token("b4d"),
        ..CaClientOptions::default()
    });
    let csr = crate::Csr::new(&id("caller")).unwrap();
    let e = client.sign(&id("caller"), csr.pem()).await.unwrap_err();
    assert!(
        matches!(&e, FetchError::Refused(status) if status.code() == Code::Unauthenticated),
        "{e:?}"
    );
    assert!(!format!("{e:?} {e}").contains("b4d"));
    drop(client);
    running.stop().await;
}

#[tokio::test]
async fn a_server_of_another_root_gets_no_token() {
    let mut running = start();
    let foreign = Ca::in_memory(&TrustDomain::default(), Arc::new(SystemClock)).unwrap();
    let config = https_client_config(RootSource::fixed(Arc::clone(foreign.roots())), None);
    running.target.tls = Some(TargetTls { config, name: None });
    let client = running.client(CaClientOptions {
        token: token("good"),
        ..CaClientOptions::default()
    });
    let csr = crate::Csr::new(&id("caller")).unwrap();
    let e = client.sign(&id("caller"), csr.pem()).await.unwrap_err();
    assert!(
        matches!(&e, FetchError::Refused(status) if status.code() == Code::Unavailable),
        "{e:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_delays_nobody() {
    let running = start();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(
            tokio::net::TcpStream::connect(&running.target.address)
                .await
                .unwrap(),
        );
    }
    let client = running.client(CaClientOptions {
        token: token("good"),
        ..CaClientOptions::default()
    });
    let csr = crate::Csr::new(&id("caller")).unwrap();
    client.sign(&id("caller"), csr.pem()).await.unwrap();
    drop(client);
    running.stop().await;
}

#[test]
fn addresses_are_host_and_port() {
    for bad in [
        "",
        "localhost",
        "localhost:",
        "localhost:x",
        ":15012 x",
        "a b:1",
    ] {
        assert!(
            channel(&Target {
                address: bad.to_owned(),
                tls: None
            })
            .is_err(),
            "{bad:?}"
        );
    }
}
