//! Client of the certificate authority's API (`istio.v1.auth.IstioCertificateService`).

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use waymark_proto::auth::IstioCertificateRequest;
use waymark_proto::auth::istio_certificate_service_client::IstioCertificateServiceClient;

use crate::spiffe::SpiffeId;
use crate::store::{CertSource, FetchError};

/// A bearer token, given or in a file that is read again for every call (tokens are short-lived and replaced in place).
///
/// Has no `Debug` that shows it.
#[derive(Clone)]
pub enum BearerToken {
    /// This one.
    Literal(String),
    /// The content of a file, which need not be there yet.
    File(PathBuf),
}

impl BearerToken {
    /// As Istio's settings mean it: the path of a file that is there, or the token itself.
    pub fn path_or_literal(value: &str) -> Self {
        if Path::new(value).is_file() {
            Self::File(value.into())
        } else {
            Self::Literal(value.to_owned())
        }
    }

    /// The value of an `authorization` header; marked sensitive, so that it is not printed or indexed.
    ///
    /// # Errors
    /// When the file cannot be read, or what is in it can be no token.
    pub fn header(&self) -> Result<MetadataValue<Ascii>, TokenError> {
        let read;
        let token = match self {
            Self::Literal(token) => token.as_str(),
            Self::File(path) => {
                read = fs::read_to_string(path).map_err(|source| TokenError::Io {
                    path: path.clone(),
                    source,
                })?;
                read.as_str()
            }
        };
        let token = token.trim();
        if token.is_empty() {
            return Err(TokenError::Invalid);
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
            .parse()
            .map_err(|_| TokenError::Invalid)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file.
    #[error("read the token in {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What it is instead is not said: it may be a secret.
    #[error("empty, or with characters that no token has")]
    Invalid,
}

/// How the authority is asked.
#[derive(Debug, Clone, Default)]
pub struct CaClientOptions {
    /// Shown with every call.
    pub token: Option<BearerToken>,
    /// Who the token (or the client certificate) says that we are. Certificates of other identities are asked for by
    /// impersonation, which only node proxies may do; `None`: whatever is asked for is what we are.
    pub own: Option<SpiffeId>,
    /// Validity to ask for; `None` leaves it to the authority.
    pub ttl: Option<Duration>,
    /// `clusterid` of the calls.
    pub cluster_id: Option<String>,
}

/// Has certificates signed by the authority at the other end of a channel.
#[derive(Debug, Clone)]
pub struct CaClient {
    channel: Channel,
    options: CaClientOptions,
}

impl CaClient {
    /// A client on a channel (see [`crate::grpc::channel`]).
    pub fn new(channel: Channel, options: CaClientOptions) -> Self {
        Self { channel, options }
    }

    async fn call(&self, identity: &SpiffeId, csr_pem: &str) -> Result<Vec<String>, FetchError> {
        let impersonate = self.options.own.as_ref().is_some_and(|own| own != identity);
        let message = IstioCertificateRequest {
            csr: csr_pem.to_owned(),
            validity_duration: self
                .options
                .ttl
                .map_or(0, |ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)),
            metadata: impersonate.then(|| impersonated(identity)),
        };
        let mut request = tonic::Request::new(message);
        if let Some(token) = &self.options.token {
            request
                .metadata_mut()
                .insert("authorization", token.header().map_err(FetchError::Token)?);
        }
        if let Some(id) = self
            .options
            .cluster_id
            .as_deref()
            .and_then(|id| id.parse().ok())
        {
            request.metadata_mut().insert("clusterid", id);
        }
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        let answer = client
            .create_certificate(request)
            .await
            .map_err(|status| FetchError::Refused(Box::new(status)))?;
        Ok(answer.into_inner().cert_chain)
    }
}

impl CertSource for CaClient {
    fn sign<'a>(
        &'a self,
        identity: &'a SpiffeId,
        csr_pem: &'a str,
    ) -> BoxFuture<'a, Result<Vec<String>, FetchError>> {
        Box::pin(self.call(identity, csr_pem))
    }
}

/// The key of [`IstioCertificateRequest`]'s metadata that names whose certificate a node proxy wants.
pub const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";

fn impersonated(identity: &SpiffeId) -> prost_types::Struct {
    let kind = prost_types::value::Kind::StringValue(identity.as_str().to_owned());
    let value = prost_types::Value { kind: Some(kind) };
    prost_types::Struct {
        fields: [(IMPERSONATED_IDENTITY.to_owned(), value)].into(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_never_printed() {
        let token = BearerToken::Literal("s3cret".to_owned());
        assert_eq!(format!("{token:?}"), "Literal(..)");
        let header = token.header().unwrap();
        assert_eq!(header.to_str().unwrap(), "Bearer s3cret");
        assert!(!format!("{header:?}").contains("s3cret"));
        let options = CaClientOptions {
            token: Some(token),
            ..CaClientOptions::default()
        };
        assert!(!format!("{options:?}").contains("s3cret"));
        let mut request = tonic::Request::new(());
        request.metadata_mut().insert("authorization", header);
        assert!(!format!("{request:?}").contains("s3cret"));
    }

    #[test]
    fn a_bad_token_is_not_printed_either() {
        let e = BearerToken::Literal("s3cret\nmore".to_owned())
            .header()
            .unwrap_err();
        assert!(!format!("{e:?} {e}").contains("s3cret"));
    }

    #[test]
    fn a_file_is_read_again_for_every_call() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = BearerToken::File(path.clone());
        assert!(matches!(token.header(), Err(TokenError::Io { .. })));
        fs::write(&path, "one\n").unwrap();
        assert_eq!(token.header().unwrap().to_str().unwrap(), "Bearer one");
        fs::write(&path, "two\n").unwrap();
        assert_eq!(token.header().unwrap().to_str().unwrap(), "Bearer two");
    }
}
