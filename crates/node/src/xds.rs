//! The stream to the control plane: workloads, services and L4 policies, all of them, as they change.
//!
//! Spec: hbone-and-l4.md 15.1. While there is no stream, what was received last stays in force.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use waymark_identity::BearerToken;
use waymark_proto::envoy::envoy::config::core::v3::Node;
use waymark_proto::envoy::google::protobuf::{Struct, Value, value::Kind};
use waymark_rt::{Shutdown, Task};
use waymark_xds::client::{ClientOptions, ClientState, Credentials, CredentialsError};
use waymark_xds::{
    AdsClient, Handler, NackReason, NodeId, NodeKind, Rejection, Subscriptions, Update,
};

use crate::args::Settings;
use crate::resources::{self, ResourceType};
use crate::state::StateHandle;
use crate::telemetry::{Telemetry, chain};

/// Starts the stream, which is opened again whenever it ends; runs until the task is dropped or `shutdown` drains.
pub fn start(
    settings: &Settings,
    channel: Channel,
    state: StateHandle,
    telemetry: Arc<Telemetry>,
    shutdown: Shutdown,
) -> (Task<()>, watch::Receiver<ClientState>) {
    let mut wanted = Subscriptions::new();
    for of in ResourceType::ALL {
        wanted.all(of.url());
    }
    let client = AdsClient::new(node(settings), wanted);
    let metadata = Metadata {
        token: settings.token_file.clone().map(BearerToken::File),
        cluster_id: settings.cluster_id.clone(),
    };
    let (stands, watched) = watch::channel(ClientState::default());
    let task = waymark_rt::spawn("xds", async move {
        let mut handler = Applier {
            state,
            telemetry: Arc::clone(&telemetry),
        };
        let stream = waymark_xds::client::run(
            client,
            channel,
            &metadata,
            ClientOptions::default(),
            &mut handler,
            &stands,
            shutdown,
        );
        let count = count_ends(stands.subscribe(), &telemetry);
        tokio::select! {
            () = Box::pin(stream) => {}
            () = count => {}
        }
    });
    (task, watched)
}

/// Counts streams that ended, by whether the control plane ended them in good order.
async fn count_ends(mut state: watch::Receiver<ClientState>, telemetry: &Telemetry) {
    let mut connected = false;
    while state.changed().await.is_ok() {
        let now = state.borrow_and_update().clone();
        if connected && !now.connected {
            let reason = if now.last_error.is_some() {
                "error"
            } else {
                "complete"
            };
            telemetry.metrics.xds_terminated(reason);
        }
        connected = now.connected;
    }
    std::future::pending().await
}

/// What is shown when a stream is opened.
struct Metadata {
    token: Option<BearerToken>,
    cluster_id: String,
}

impl Credentials for Metadata {
    fn add(&self, metadata: &mut MetadataMap) -> Result<(), CredentialsError> {
        if let Some(token) = &self.token {
            let header = token
                .header()
                .map_err(|error| CredentialsError(chain(&error)))?;
            metadata.insert("authorization", header);
        }
        if let Ok(cluster) = self.cluster_id.parse() {
            metadata.insert("clusterid", cluster);
        }
        Ok(())
    }
}

/// Applies responses to the state.
struct Applier {
    state: StateHandle,
    telemetry: Arc<Telemetry>,
}

impl Handler for Applier {
    fn apply(&mut self, update: Update<'_>, _: &mut Subscriptions) -> Result<(), NackReason> {
        let Some(of) = ResourceType::ALL
            .into_iter()
            .find(|of| of.url() == update.type_url)
        else {
            return Err(NackReason::Response(format!(
                "{} was not asked for",
                update.type_url
            )));
        };
        // A resource without a body is an empty message, which is refused as such.
        let bodies: Vec<(&str, &[u8])> = update
            .resources
            .iter()
            .map(|r| {
                let body = r.resource.as_ref().map_or(&[][..], |any| &any.value);
                (r.name.as_str(), body)
            })
            .collect();
        let bytes: usize = bodies.iter().map(|(_, body)| body.len()).sum();
        self.telemetry
            .metrics
            .xds_message(of.url(), u64::try_from(bytes).unwrap_or(u64::MAX));
        let (_, refused) = resources::apply(
            &self.state,
            of,
            bodies,
            update.removed.iter().map(String::as_str),
        );
        if refused.is_empty() {
            return Ok(());
        }
        let rejection = |r: resources::Refused| Rejection {
            name: r.name,
            reason: chain(&r.reason),
        };
        Err(NackReason::Resources(
            refused.into_iter().map(rejection).collect(),
        ))
    }
}

fn node(settings: &Settings) -> Node {
    let ip = settings
        .address
        .unwrap_or(IpAddr::from([127, 0, 0, 1]))
        .to_string();
    let id = NodeId {
        kind: NodeKind::Ztunnel,
        ip: ip.clone(),
        proxy: format!("{}.{}", settings.pod_name, settings.pod_namespace),
        dns_domain: format!("{}.svc.cluster.local", settings.pod_namespace),
    };
    let metadata = [
        ("NAME", settings.pod_name.as_str()),
        ("NAMESPACE", &settings.pod_namespace),
        (
            "NODE_NAME",
            settings.node_name.as_deref().unwrap_or_default(),
        ),
        ("INSTANCE_IPS", &ip),
        ("CLUSTER_ID", &settings.cluster_id),
        ("NETWORK", &settings.network),
        ("WAYMARK_VERSION", env!("CARGO_PKG_VERSION")),
    ];
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let fields = metadata.into_iter().filter(|(_, value)| !value.is_empty());
    Node {
        id: id.to_string(),
        metadata: Some(Struct {
            fields: fields
                .map(|(key, value)| (key.to_owned(), text(value)))
                .collect(),
        }),
        ..Node::default()
    }
}
