//! Questions to pods over HTTP, through the API server: `pods/portforward`, as kubectl and istioctl ask them. Nothing listens
//! on this machine for it. Spec: cli-and-admin.md 1.5.

use std::fmt;
use std::pin::pin;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, PostParams};

/// A port of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPort {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The port, on the pod's loopback address.
    pub port: u16,
}

impl fmt::Display for PodPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "port {} of pod {}/{}",
            self.port, self.namespace, self.pod
        )
    }
}

/// Why a pod gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum PortForwardError {
    /// Who asks may not do so.
    #[error(
        "no access to pods/portforward in namespace {namespace}: the verb {} is missing",
        missing.join(", ")
    )]
    Forbidden {
        /// The namespace.
        namespace: String,
        /// The verbs that would have to be granted.
        missing: Vec<&'static str>,
    },
    /// The API server did not lead there.
    #[error("failure running port forward process: {to}")]
    Open {
        /// Where to.
        to: PodPort,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// The way ended at the node: nothing listens on the port, for example.
    #[error("failure running port forward process: {to}: {reason}")]
    Node {
        /// Where to.
        to: PodPort,
        /// What the node said.
        reason: String,
    },
    /// What answers there does not speak HTTP as it should.
    #[error("ask {to}")]
    Http {
        /// Who was asked.
        to: PodPort,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Sends a request (path and query alone) to a port of a pod and takes the answer, whose body may be that long.
///
/// # Errors
/// See [`PortForwardError`].
///
/// # Cancel safety
/// Dropped, it takes its connection with it.
pub async fn ask(
    client: &Client,
    to: &PodPort,
    request: Request<Full<Bytes>>,
    max_body_bytes: usize,
) -> Result<Response<Bytes>, PortForwardError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &to.namespace);
    let mut forwarder = match pods.portforward(&to.pod, &[to.port]).await {
        Ok(forwarder) => forwarder,
        Err(error) => return Err(why_not(client, to, error).await),
    };
    let (Some(stream), Some(said)) = (
        forwarder.take_stream(to.port),
        forwarder.take_error(to.port),
    ) else {
        unreachable!("the port was asked for, and its stream has not been taken")
    };
    let answer = exchange(stream, request, max_body_bytes).await;
    // It holds the connection, and has no other task to end it.
    forwarder.abort();
    answer.map_err(|source| match said.now_or_never().flatten() {
        Some(reason) => PortForwardError::Node {
            to: to.clone(),
            reason: reason.trim().to_owned(),
        },
        None => PortForwardError::Http {
            to: to.clone(),
            source,
        },
    })
}

async fn exchange(
    stream: tokio::io::DuplexStream,
    request: Request<Full<Bytes>>,
    max_body_bytes: usize,
) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, max_body_bytes)
            .collect()
            .await?
            .to_bytes();
        Ok(Response::from_parts(head, body))
    };
    let (mut exchange, connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // It has handed over all that there is.
        _ = connection => exchange.await,
    }
}

/// Says which verbs are missing where the API server refuses to lead anybody: what it says itself names one of them.
async fn why_not(client: &Client, to: &PodPort, error: kube::Error) -> PortForwardError {
    if matches!(&error, kube::Error::Api(status) if status.code == 403) {
        let mut missing = Vec::new();
        for verb in VERBS {
            if !may(client, &to.namespace, verb).await.unwrap_or(true) {
                missing.push(verb);
            }
        }
        if !missing.is_empty() {
            return PortForwardError::Forbidden {
                namespace: to.namespace.clone(),
                missing,
            };
        }
    }
    PortForwardError::Open {
        to: to.clone(),
        source: Box::new(error),
    }
}

async fn may(client: &Client, namespace: &str, verb: &str) -> Result<bool, kube::Error> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.to_owned()),
                verb: Some(verb.to_owned()),
                resource: Some("pods".to_owned()),
                subresource: Some("portforward".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let review = Api::all(client.clone())
        .create(&PostParams::default(), &review)
        .await?;
    Ok(review.status.is_none_or(|status| status.allowed))
}

/// What a port-forward over WebSocket takes: it is a GET, and since Kubernetes 1.35 the right to create is asked for too.
const VERBS: [&str; 2] = ["get", "create"];
