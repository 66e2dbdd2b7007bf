//! What the wire may say, and what it may not.

use proptest::prelude::*;

use super::*;

fn workload_message() -> wds::Workload {
    wds::Workload {
        uid: "Kubernetes//Pod/default/a".into(),
        name: "a".into(),
        namespace: "default".into(),
        addresses: vec![vec![127, 244, 0, 1]],
        ..wds::Workload::default()
    }
}

fn service_message() -> wds::Service {
    wds::Service {
        name: "s".into(),
        namespace: "default".into(),
        hostname: "s.default".into(),
        ..wds::Service::default()
    }
}

#[test]
fn absent_fields_have_the_defaults_of_the_spec() {
    let parsed = workload(workload_message()).unwrap();
    assert_eq!(
        parsed.identity.as_str(),
        "spiffe://cluster.local/ns/default/sa/default"
    );
    assert_eq!(&*parsed.cluster_id, "Kubernetes");
    assert_eq!(
        (parsed.capacity, parsed.protocol, parsed.status),
        (1, Protocol::Tcp, Health::Healthy)
    );
    assert_eq!(parsed.extension, WorkloadExtension::default());
    let parsed = service(service_message()).unwrap();
    assert_eq!(
        (parsed.visibility, parsed.ip_families),
        (Visibility::Public, None)
    );
    assert_eq!(parsed.load_balancing, LoadBalancing::default());
}

fn refusal(change: impl FnOnce(&mut wds::Workload)) -> String {
    let mut message = workload_message();
    change(&mut message);
    crate::telemetry::chain(&workload(message).unwrap_err())
}

#[test]
fn what_is_not_understood_is_refused_with_its_field() {
    let extension = |message: &ext::WorkloadExtension| wds::Extension {
        name: WORKLOAD_EXTENSION.into(),
        config: Some(prost_types::Any {
            type_url: String::new(),
            value: message.encode_to_vec(),
        }),
    };
    for (got, want) in [
        (refusal(|w| w.uid.clear()), "uid is missing"),
        (
            refusal(|w| w.tunnel_protocol = 2),
            "tunnel_protocol: 2 is not a known value",
        ),
        (
            refusal(|w| w.tunnel_protocol = 3),
            "tunnel_protocol: 3 is not a known value",
        ),
        (
            refusal(|w| w.workload_type = 9),
            "workload_type: 9 is not a known value",
        ),
        (
            refusal(|w| w.status = -1),
            "status: -1 is not a known value",
        ),
        (
            refusal(|w| w.network_mode = 4),
            "network_mode: 4 is not a known value",
        ),
        (
            refusal(|w| w.addresses = vec![vec![1, 2, 3]]),
            "addresses: malformed address",
        ),
        (
            refusal(|w| w.waypoint = Some(wds::GatewayAddress::default())),
            "waypoint is missing",
        ),
        (
            refusal(|w| {
                w.services
                    .insert("nonsense".into(), wds::PortList::default());
            }),
            "services: \"nonsense\" is not <namespace>/<hostname>",
        ),
        (
            refusal(|w| {
                let port = wds::Port {
                    service_port: 70_000,
                    ..wds::Port::default()
                };
                w.services
                    .insert("a/b".into(), wds::PortList { ports: vec![port] });
            }),
            "services.ports: 70000 is not a port",
        ),
        (
            refusal(|w| {
                let message = ext::WorkloadExtension {
                    enforcement: 9,
                    ..ext::WorkloadExtension::default()
                };
                w.extensions = vec![extension(&message)];
            }),
            "enforcement: 9 is not a known value",
        ),
        (
            refusal(|w| {
                let message = ext::WorkloadExtension {
                    application_address: vec![1],
                    ..ext::WorkloadExtension::default()
                };
                w.extensions = vec![extension(&message)];
            }),
            "application_address: malformed address",
        ),
    ] {
        assert_eq!(got, want);
    }
    let odd_account = refusal(|w| w.service_account = "a/b".into());
    assert!(
        odd_account.starts_with("identity: service account \"a/b\""),
        "{odd_account}"
    );
}

#[test]
fn extensions_of_others_are_passed_over() {
    let mut message = workload_message();
    message.extensions = vec![wds::Extension {
        name: "example.com/other".into(),
        config: Some(prost_types::Any {
            type_url: "x".into(),
            value: vec![255; 4],
        }),
    }];
    assert!(workload(message).is_ok());
}

#[test]
fn virtual_addresses_may_be_ranges_and_unknown_visibility_is_public() {
    let at = |address: [u8; 4], length| wds::NetworkAddress {
        network: "n".into(),
        address: address.to_vec(),
        length,
    };
    let mut message = service_message();
    message.addresses = vec![
        at([10, 96, 0, 1], None),
        at([10, 96, 0, 2], Some(32)),
        at([10, 97, 1, 1], Some(16)),
    ];
    message.visibility = 7;
    message.subject_alt_names = vec!["spiffe://td/ns/a/sa/b".into(), "dns.example".into()];
    let parsed = service(message).unwrap();
    let shown: Vec<_> = parsed.vips.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["n/10.96.0.1", "n/10.96.0.2"]);
    assert_eq!(parsed.cidr_vips[0].to_string(), "n/10.97.0.0/16");
    assert_eq!(parsed.visibility, Visibility::Public);
    assert_eq!(
        (
            parsed.subject_alt_names.len(),
            parsed.extra_identities.len()
        ),
        (2, 1)
    );
    let mut message = service_message();
    message.addresses = vec![at([10, 96, 0, 1], Some(33))];
    assert!(service(message).is_err());
}

#[test]
fn v4_mapped_addresses_are_v4() {
    let mut message = workload_message();
    message.addresses = vec![vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1]];
    assert_eq!(
        workload(message).unwrap().addresses,
        ["10.0.0.1".parse::<IpAddr>().unwrap()]
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = address(&bytes);
        let _ = crate::policy::decode::policy(&bytes);
    }
}
