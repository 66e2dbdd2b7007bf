//! Who is who in the mesh: SPIFFE identities, the certificate authority, certificates and their rotation, TLS.
//!
//! A program holds one [`CertStore`]; for each identity that it speaks for, the store's [`CertHandle`] always has the
//! current key and certificate, and [`tls::server_config`] and [`tls::client_config`] read it at every handshake, so that
//! a rotation needs nothing rebuilt. Private keys never leave the process that made them.
#![forbid(unsafe_code)]

pub mod ca;
pub mod client;
pub mod credentials;
pub mod csr;
pub mod grpc;
pub mod roots;
pub mod serving;
pub mod spiffe;
pub mod store;
pub mod tls;

pub use ca::{Ca, CaError, Issued, SignError};
pub use client::{BearerToken, CaClient, CaClientOptions};
pub use credentials::{CertInfo, Credentials, KeyExport, PrivateKeyPem};
pub use csr::Csr;
pub use roots::Roots;
pub use serving::keep_serving;
pub use spiffe::{ServiceAccountRef, SpiffeError, SpiffeId, TrustDomain};
pub use store::{
    CertHandle, CertSource, CertState, CertStatus, CertStore, FetchError, StoreOptions,
};
pub use tls::{Expected, PeerPolicy, peer_identity};
