//! A relay on one thread: tunnels in over mTLS HBONE, the same tunnels out over a pool. What the layers below a proxy cost.
//!
//! ```text
//! relay 127.0.0.1:15108 127.0.0.1:15208 DIR
//! ```
//!
//! It accepts at the first address and dials the second. The directory has `ca-cert.pem`, `ca-key.pem` and `root-cert.pem`, as
//! the bench's `load` and `backend` want them, which make a client and a destination for it.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use waymark_driver::{Executor, Tasks, TcpListener, TcpStream};
use waymark_hbone::{
    Acceptor, CopyCounters, Drain, ExpectedPeer, Incoming, Pool, PoolKey, PoolSettings, ServeAs,
    ServerSettings, copy_bidirectional,
};
use waymark_identity::{CertHandle, Credentials, PeerPolicy, SpiffeId};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("relay LISTEN UPSTREAM DIRECTORY");
    let (listen, upstream): (SocketAddr, SocketAddr) = (next()?.parse()?, next()?.parse()?);
    let id: SpiffeId = "spiffe://cluster.local/ns/bench/sa/waypoint".parse()?;
    let handle = certificate(&PathBuf::from(next()?), &id)?;
    let listener = std::net::TcpListener::bind(listen)?;
    Executor::new()?.block_on(async move {
        let mut listener = TcpListener::from_std(listener)?;
        let acceptor = Acceptor::new(
            ServeAs::new(handle.clone(), PeerPolicy::AnyTrusted),
            ServerSettings::default(),
        );
        let drain = Drain::new();
        let pool = Pool::new(handle, PoolSettings::default(), &drain);
        let key = PoolKey {
            expected: ExpectedPeer::TrustDomains(Arc::new([id.trust_domain().parse()?])),
            source: id,
            destination: upstream,
            bind: None,
        };
        let relay = Relay {
            pool,
            key: Arc::new(key),
        };
        let tasks = Tasks::new();
        loop {
            let accepted = listener.accept().await;
            let (acceptor, drain, relay) = (acceptor.clone(), drain.clone(), relay.clone());
            tasks.spawn("connection", async move {
                let Ok(tcp) = TcpStream::adopt(accepted) else {
                    return;
                };
                let Ok(mut connection) = acceptor.accept(tcp, &drain).await else {
                    return;
                };
                let tunnels = Tasks::new();
                while let Some(incoming) = connection.next().await {
                    let relay = relay.clone();
                    tunnels.spawn("tunnel", async move { relay.serve(incoming).await });
                }
            });
        }
    })
}

#[derive(Clone)]
struct Relay {
    pool: Pool,
    key: Arc<PoolKey>,
}

impl Relay {
    async fn serve(&self, incoming: Incoming) {
        let connected = self.pool.connect(&self.key, &incoming.authority, []).await;
        let mut out = match connected {
            Ok(connected) => connected.tunnel,
            Err(_) => return incoming.refuse(http::StatusCode::SERVICE_UNAVAILABLE),
        };
        if let Ok(mut tunnel) = incoming.accept([]) {
            copy_bidirectional(&mut tunnel, &mut out, &CopyCounters::default()).await;
        }
    }
}

/// A certificate of the CA in a directory.
fn certificate(ca: &Path, id: &SpiffeId) -> Result<CertHandle, Box<dyn std::error::Error>> {
    let read = |name: &str| std::fs::read_to_string(ca.join(name));
    let key = KeyPair::from_pem(&read("ca-key.pem")?)?;
    let issuer = Issuer::from_ca_cert_pem(&read("ca-cert.pem")?, key)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let leaf = params.signed_by(&key, &issuer)?;
    let credentials = Credentials::from_pem(
        &key.serialize_pem(),
        &leaf.pem(),
        &read("root-cert.pem")?,
        SystemTime::now(),
    )?;
    Ok(CertHandle::fixed(credentials))
}
