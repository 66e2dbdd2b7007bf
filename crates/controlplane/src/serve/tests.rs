use std::collections::HashMap;

use waymark_proto::envoy::envoy::config::core::v3::Node;
use waymark_proto::envoy::google::protobuf::{Struct, Value, value::Kind};

use super::node::NodeError;
use super::*;
use crate::index::{Index, Mesh};
use crate::translate::input::{Flavour, IpFamily};

fn text(text: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    }
}

fn metadata(pairs: &[(&str, &str)], labels: &[(&str, &str)]) -> Struct {
    let mut fields: HashMap<String, Value> = pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), text(value)))
        .collect();
    let labels = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), text(value)))
        .collect();
    let labels = Value {
        kind: Some(Kind::StructValue(Struct { fields: labels })),
    };
    fields.insert("LABELS".to_owned(), labels);
    Struct { fields }
}

const ID: &str = "waypoint~127.244.0.9~waypoint-0.shop~shop.svc.cluster.local";
const GATEWAY: (&str, &str) = ("gateway.networking.k8s.io/gateway-name", "waypoint");

fn check(identity: Option<&str>, pairs: &[(&str, &str)]) -> Result<(), Refusal> {
    let id = ID.parse().expect("a node id");
    check_identity(identity, &id, &Metadata::new(Some(&metadata(pairs, &[]))))
}

#[test]
fn a_proxy_is_only_what_its_identity_says() {
    let own = Some("spiffe://cluster.local/ns/shop/sa/waypoint");
    assert_eq!(check(own, &[]), Ok(()));
    assert_eq!(
        check(
            own,
            &[("NAMESPACE", "shop"), ("SERVICE_ACCOUNT", "waypoint")]
        ),
        Ok(())
    );
    assert_eq!(check(None, &[("NAMESPACE", "other")]), Ok(()));
    for pairs in [[("NAMESPACE", "other")], [("SERVICE_ACCOUNT", "other")]] {
        assert!(
            matches!(check(own, &pairs), Err(Refusal::PermissionDenied(_))),
            "{pairs:?}"
        );
    }
}

fn proxy(
    pairs: &[(&str, &str)],
    labels: &[(&str, &str)],
) -> Result<crate::translate::input::Proxy, NodeError> {
    let node = Node::default();
    let id = ID.parse().expect("a node id");
    node::proxy(
        &Index::new(Mesh::default()),
        &node,
        &id,
        &Metadata::new(Some(&metadata(pairs, labels))),
    )
}

#[test]
fn a_node_describes_its_proxy() {
    let proxy = proxy(
        &[
            ("INSTANCE_IPS", "127.244.0.9,fd00::9"),
            ("SERVICE_ACCOUNT", "sa"),
        ],
        &[GATEWAY],
    )
    .expect("valid");
    assert_eq!(
        (proxy.namespace.as_str(), proxy.gateway.as_str()),
        ("shop", "waypoint")
    );
    assert_eq!(proxy.service_account, "sa");
    assert_eq!(proxy.ip_family, IpFamily::Dual);
    assert_eq!(proxy.flavour, Flavour::Stock);
    assert_eq!(proxy.cluster_id, "Kubernetes");
}

#[test]
fn the_flavour_is_said_or_follows_from_the_version() {
    let flavour = |pairs: &[(&str, &str)]| proxy(pairs, &[GATEWAY]).map(|proxy| proxy.flavour);
    assert_eq!(
        flavour(&[("ISTIO_VERSION", "1.32.0")]),
        Ok(Flavour::IstioProxy)
    );
    assert_eq!(
        flavour(&[("ISTIO_VERSION", "1.32.0"), ("WAYMARK_FLAVOUR", "stock")]),
        Ok(Flavour::Stock)
    );
    assert_eq!(
        flavour(&[("WAYMARK_FLAVOUR", "istio-proxy")]),
        Ok(Flavour::IstioProxy)
    );
    assert_eq!(
        flavour(&[("WAYMARK_FLAVOUR", "x")]),
        Err(NodeError::Flavour("x".to_owned()))
    );
}

#[test]
fn a_proxy_of_no_gateway_is_refused() {
    assert_eq!(
        proxy(&[], &[]).map(|_| ()),
        Err(NodeError::NoGateway {
            address: "127.244.0.9".to_owned()
        })
    );
}
