//! Envoy's secret discovery service: certificate and roots under their names, pushed again when they are rotated.
//!
//! Spec: waypoint-xds.md 2.3 and 8.4; Envoy's xDS protocol, both forms.

mod stream;

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};
use waymark_proto::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use waymark_proto::envoy::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use waymark_rt::Spawner;

use self::stream::{Delta, Form, SecretStream, StateOfTheWorld};
use crate::secrets::{Secrets, Watched};

/// The service.
#[derive(Clone)]
pub(crate) struct Sds {
    secrets: Watched,
    spawner: Spawner,
}

impl Sds {
    pub(crate) fn server(secrets: Watched, spawner: Spawner) -> SecretDiscoveryServiceServer<Self> {
        SecretDiscoveryServiceServer::new(Self { secrets, spawner })
    }

    fn open<F: Form + 'static>(&self, requests: Streaming<F::Request>) -> Answers<F::Response> {
        let (send, answers) = mpsc::channel(ANSWERS);
        self.spawner.spawn(
            "sds stream",
            drive::<F>(requests, self.secrets.clone(), send),
        );
        Box::pin(ReceiverStream::new(answers))
    }
}

type Answers<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Answers<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(Response::new(self.open::<Delta>(request.into_inner())))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Ok(Response::new(
            self.open::<StateOfTheWorld>(request.into_inner()),
        ))
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let secrets = self.secrets.borrow().clone();
        let secrets = secrets.ok_or_else(|| Status::unavailable("there is no certificate yet"))?;
        SecretStream::<StateOfTheWorld>::default()
            .take(request.into_inner(), Some(&secrets))
            .map(Response::new)
            .ok_or_else(|| Status::not_found("no secret of these names"))
    }
}

/// One stream, until its client ends it or is gone.
async fn drive<F: Form>(
    mut requests: Streaming<F::Request>,
    mut secrets: Watched,
    answers: mpsc::Sender<Result<F::Response, Status>>,
) {
    let mut stream = SecretStream::<F>::default();
    loop {
        let answer = tokio::select! {
            biased;
            request = requests.next() => match request {
                Some(Ok(request)) => {
                    let secrets = secrets.borrow_and_update().clone();
                    stream.take(request, secrets.as_deref())
                }
                Some(Err(status)) => {
                    debug!(%status, "sds stream broke");
                    return;
                }
                None => return,
            },
            changed = secrets.changed() => match changed {
                Ok(()) => {
                    let secrets = secrets.borrow_and_update().clone();
                    stream.changed(secrets.as_deref())
                }
                // The agent is ending.
                Err(_) => return,
            },
        };
        if let Some(answer) = answer
            && answers.send(Ok(answer)).await.is_err()
        {
            return;
        }
    }
}

/// Says what Envoy could not use.
fn refused(message: &str) {
    warn!(error = message, "envoy refused a secret");
}

/// Answers that Envoy has not taken yet; with more, the stream waits.
const ANSWERS: usize = 4;

#[cfg(test)]
mod tests;
