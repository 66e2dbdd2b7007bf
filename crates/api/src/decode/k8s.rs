//! Kinds of the Kubernetes core.

use std::net::IpAddr;

use crate::ambient::TrafficDistribution;
use crate::decode::meta::{NameRule, Scope, annotation, annotations_with_prefix, meta};
use crate::decode::object::{Field, Object};
use crate::decode::values::{decoded, plain, refuse_duplicates};
use crate::k8s::{
    AddressType, ClusterIps, Container, ContainerPort, Endpoint, EndpointPort, EndpointSlice,
    IpFamily, LocalPod, Namespace, Node, Pod, PodPhase, PodSpec, PodStatus, Probe, ProbeAction,
    Service, ServiceAccount, ServicePort, ServiceSpec, ServiceType, TargetPort, TargetRef,
};
use crate::names;
use crate::protocol::{Protocol, Transport};
use crate::tree::{Value, quoted};

pub(super) fn namespace(root: &Field<'_>) -> Option<Namespace> {
    let mut object = root.object()?;
    Some(Namespace {
        meta: meta(&mut object, NameRule::Label, Scope::Cluster),
    })
}

pub(super) fn node(root: &Field<'_>) -> Option<Node> {
    let mut object = root.object()?;
    Some(Node {
        meta: meta(&mut object, NameRule::Subdomain, Scope::Cluster),
    })
}

pub(super) fn service_account(root: &Field<'_>) -> Option<ServiceAccount> {
    let mut object = root.object()?;
    Some(ServiceAccount {
        meta: meta(&mut object, NameRule::Subdomain, Scope::Namespaced),
    })
}

pub(super) fn service(root: &Field<'_>) -> Option<Service> {
    let mut object = root.object()?;
    let meta = meta(&mut object, NameRule::Label, Scope::Namespaced);
    let mut spec = object.required("spec")?.object()?;
    let service_type = service_type(&mut spec)?;
    let ports = spec.list("ports");
    if ports.is_empty()
        && !matches!(service_type, ServiceType::ExternalName(_))
        && !is_headless(&spec)
    {
        spec.missing("ports");
    }
    Some(Service {
        meta,
        spec: ServiceSpec {
            service_type,
            cluster_ips: cluster_ips(&mut spec),
            selector: spec.opt("selector").map(|f| f.labels()).unwrap_or_default(),
            ports: service_ports(&ports),
            ip_families: spec
                .list("ipFamilies")
                .iter()
                .filter_map(|f| f.one_of(IP_FAMILIES))
                .collect(),
            internal_traffic_local: spec
                .opt("internalTrafficPolicy")
                .and_then(|f| f.one_of(&[("Cluster", false), ("Local", true)]))
                .unwrap_or_default(),
            traffic_distribution: spec
                .opt("trafficDistribution")
                .and_then(|f| f.one_of(TrafficDistribution::ALLOWED)),
            publish_not_ready_addresses: spec.flag("publishNotReadyAddresses"),
        },
    })
}

fn service_type(spec: &mut Object<'_>) -> Option<ServiceType> {
    let kind = spec.opt("type").map_or(Some(0), |f| {
        f.one_of(&[
            ("ClusterIP", 0),
            ("NodePort", 1),
            ("LoadBalancer", 2),
            ("ExternalName", 3),
        ])
    })?;
    Some(match kind {
        0 => ServiceType::ClusterIp,
        1 => ServiceType::NodePort,
        2 => ServiceType::LoadBalancer,
        _ => ServiceType::ExternalName(spec.required("externalName")?.exact_host()?.to_string()),
    })
}

fn is_headless(spec: &Object<'_>) -> bool {
    spec.field().node().text("clusterIP") == Some("None")
}

fn cluster_ips(spec: &mut Object<'_>) -> ClusterIps {
    let first = spec
        .opt("clusterIP")
        .filter(|f| f.node().value != Value::String(String::new()));
    let all = spec.list("clusterIPs");
    let none = |f: &Field<'_>| f.node().value == Value::String("None".into());
    if first.as_ref().is_some_and(none) || all.iter().any(none) {
        if first.iter().chain(&all).any(|f| !none(f)) {
            spec.field()
                .invalid("clusterIP None excludes addresses", None);
        }
        return ClusterIps::Headless;
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in first.iter().chain(&all).filter_map(|f| f.ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        ClusterIps::Unset
    } else {
        ClusterIps::Given(addresses)
    }
}

fn service_ports(fields: &[Field<'_>]) -> Vec<ServicePort> {
    let ports = decoded(fields, service_port);
    refuse_duplicates(&ports, "port name", |p| p.name.clone());
    refuse_duplicates(&ports, "port", |p| {
        Some(format!("{}/{}", p.port, p.transport.as_str()))
    });
    if ports.len() > 1 {
        for (field, port) in &ports {
            if port.name.is_none() {
                field.invalid("needs a name, since the service has several ports", None);
            }
        }
    }
    plain(ports)
}

fn service_port(field: &Field<'_>) -> Option<ServicePort> {
    let mut object = field.object()?;
    let name = object.opt("name").and_then(|f| f.label());
    let transport = transport(&mut object)?;
    let app_protocol = object.text("appProtocol");
    let port = object.required("port")?.port()?;
    let target_port = object
        .opt("targetPort")
        .map_or(Some(TargetPort::Number(port)), |f| target_port(&f))?;
    let protocol = Protocol::select(transport, app_protocol.as_deref(), name.as_deref(), port);
    Some(ServicePort {
        name,
        port,
        target_port,
        transport,
        app_protocol,
        protocol,
    })
}

fn transport(object: &mut Object<'_>) -> Option<Transport> {
    object
        .opt("protocol")
        .map_or(Some(Transport::Tcp), |f| f.one_of(Transport::ALLOWED))
}

/// A port by number or name.
fn target_port(field: &Field<'_>) -> Option<TargetPort> {
    let Value::String(text) = &field.node().value else {
        // 0 stands for "not given" in what Kubernetes itself writes
        return field.port().map(TargetPort::Number);
    };
    let letters = text.bytes().any(|b| b.is_ascii_lowercase());
    if text.len() > 15 || !crate::host::is_label(text) || !letters {
        field.invalid(
            format!("{} is not a port", quoted(text)),
            "a number without quotes, or a name of at most 15 of a-z, 0-9 and '-' with a letter in it".to_owned(),
        );
        return None;
    }
    Some(TargetPort::Name(text.clone()))
}

pub(super) fn pod(root: &Field<'_>) -> Option<Pod> {
    let mut object = root.object()?;
    let meta = meta(&mut object, NameRule::Subdomain, Scope::Namespaced);
    let local = local_pod(&mut object);
    let status = object
        .opt("status")
        .and_then(|f| pod_status(&f))
        .unwrap_or_default();
    let mut spec = object.required("spec")?.object()?;
    let containers = spec.required_list("containers");
    let pod = PodSpec {
        service_account_name: spec
            .opt("serviceAccountName")
            .and_then(|f| f.subdomain())
            .unwrap_or_else(|| "default".to_owned()),
        node_name: spec.text("nodeName").filter(|n| !n.is_empty()),
        host_network: spec.flag("hostNetwork"),
        init_containers: spec
            .list("initContainers")
            .iter()
            .filter_map(container)
            .collect(),
        containers: containers.iter().filter_map(container).collect(),
    };
    Some(Pod {
        meta,
        spec: pod,
        status,
        local,
    })
}

fn container(field: &Field<'_>) -> Option<Container> {
    let mut object = field.object()?;
    Some(Container {
        ports: object
            .list("ports")
            .iter()
            .filter_map(container_port)
            .collect(),
        startup_probe: object.opt("startupProbe").and_then(|f| probe(&f)),
        readiness_probe: object.opt("readinessProbe").and_then(|f| probe(&f)),
        liveness_probe: object.opt("livenessProbe").and_then(|f| probe(&f)),
        restarts_always: object.text("restartPolicy").as_deref() == Some("Always"),
        name: object.required("name")?.label()?,
    })
}

fn container_port(field: &Field<'_>) -> Option<ContainerPort> {
    let mut object = field.object()?;
    let transport = transport(&mut object)?;
    let name = object.opt("name").and_then(|f| f.label());
    Some(ContainerPort {
        name,
        port: object.required("containerPort")?.port()?,
        transport,
    })
}

fn probe(field: &Field<'_>) -> Option<Probe> {
    let mut object = field.object()?;
    let action = probe_action(&mut object);
    if action.is_none() {
        field.invalid(
            "is no probe",
            "it needs one of httpGet, tcpSocket, grpc, exec".to_owned(),
        );
    }
    let mut number = |name, default| object.count(name).filter(|n| *n > 0).unwrap_or(default);
    Some(Probe {
        initial_delay_seconds: number("initialDelaySeconds", 0),
        period_seconds: number("periodSeconds", 10),
        timeout_seconds: number("timeoutSeconds", 1),
        failure_threshold: number("failureThreshold", 3),
        success_threshold: number("successThreshold", 1),
        action: action?,
    })
}

fn probe_action(probe: &mut Object<'_>) -> Option<ProbeAction> {
    if let Some(mut http) = probe.opt("httpGet").and_then(|f| f.object()) {
        let scheme = http.opt("scheme").map_or(Some(false), |f| {
            f.one_of(&[("HTTP", false), ("HTTPS", true)])
        });
        let path = http
            .text("path")
            .filter(|p| !p.is_empty())
            .unwrap_or_else(|| "/".to_owned());
        return Some(ProbeAction::HttpGet {
            path,
            port: target_port(&http.required("port")?)?,
            tls: scheme?,
        });
    }
    if let Some(mut tcp) = probe.opt("tcpSocket").and_then(|f| f.object()) {
        return Some(ProbeAction::TcpSocket {
            port: target_port(&tcp.required("port")?)?,
        });
    }
    if let Some(mut grpc) = probe.opt("grpc").and_then(|f| f.object()) {
        return Some(ProbeAction::Grpc {
            port: TargetPort::Number(grpc.required("port")?.port()?),
        });
    }
    let mut exec = probe.opt("exec")?.object()?;
    Some(ProbeAction::Exec {
        command: exec.strings("command"),
    })
}

fn pod_status(field: &Field<'_>) -> Option<PodStatus> {
    let mut object = field.object()?;
    let address = |f: &Field<'_>| {
        f.object()
            .and_then(|mut o| o.opt("ip"))
            .and_then(|f| f.ip())
    };
    let mut pod_ips: Vec<IpAddr> = object.list("podIPs").iter().filter_map(address).collect();
    let first = object
        .opt("podIP")
        .filter(|f| f.node().value != Value::String(String::new()))
        .and_then(|f| f.ip());
    if let Some(first) = first.filter(|ip| !pod_ips.contains(ip)) {
        pod_ips.insert(0, first);
    }
    let ready = |f: &Field<'_>| {
        let mut condition = f.object()?;
        (condition.text("type").as_deref() == Some("Ready"))
            .then(|| condition.text("status").as_deref() == Some("True"))
    };
    Some(PodStatus {
        phase: object
            .opt("phase")
            .and_then(|f| f.one_of(PodPhase::ALLOWED)),
        pod_ips,
        ready: object.list("conditions").iter().find_map(ready),
    })
}

fn local_pod(object: &mut Object<'_>) -> LocalPod {
    let command = annotation(object, names::COMMAND).and_then(|f| {
        let words = split_words(f.text()?);
        match words {
            Ok(words) => Some(words),
            Err(why) => {
                f.invalid(
                    why,
                    "a program and its arguments, as a shell would split them".to_owned(),
                );
                None
            }
        }
    });
    let env = annotations_with_prefix(object, names::ENV_PREFIX);
    LocalPod {
        command,
        app_address: annotation(object, names::APP_ADDRESS).and_then(|f| f.ip()),
        env,
    }
}

/// Splits a command as a shell splits words: at white space, with quotes and backslashes, without expansions.
fn split_words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let inside = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => inside.push(c),
                        None => return Err("a quote is not closed"),
                    }
                }
            }
            '"' => {
                let inside = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => inside.push(chars.next().ok_or("a quote is not closed")?),
                        Some(c) => inside.push(c),
                        None => return Err("a quote is not closed"),
                    }
                }
            }
            '\\' => word
                .get_or_insert_default()
                .push(chars.next().ok_or("ends with a backslash")?),
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if words.first().is_none_or(String::is_empty) {
        Err("names no program")
    } else {
        Ok(words)
    }
}

pub(super) fn endpoint_slice(root: &Field<'_>) -> Option<EndpointSlice> {
    let mut object = root.object()?;
    let meta = meta(&mut object, NameRule::Subdomain, Scope::Namespaced);
    let address_type = object
        .required("addressType")?
        .one_of(AddressType::ALLOWED)?;
    Some(EndpointSlice {
        service_name: meta.label(names::SERVICE_NAME).map(str::to_owned),
        meta,
        address_type,
        ports: object
            .list("ports")
            .iter()
            .filter_map(endpoint_port)
            .collect(),
        endpoints: object
            .list("endpoints")
            .iter()
            .filter_map(|f| endpoint(f, address_type))
            .collect(),
    })
}

fn endpoint_port(field: &Field<'_>) -> Option<EndpointPort> {
    let mut object = field.object()?;
    Some(EndpointPort {
        name: object.text("name").filter(|n| !n.is_empty()),
        port: object.port("port"),
        transport: transport(&mut object)?,
        app_protocol: object.text("appProtocol"),
    })
}

fn endpoint(field: &Field<'_>, address_type: AddressType) -> Option<Endpoint> {
    let mut object = field.object()?;
    let addresses = object.required_list("addresses");
    let mut conditions = object.opt("conditions").and_then(|f| f.object());
    let mut condition = |name| conditions.as_mut()?.opt(name)?.flag();
    let (ready, serving, terminating) = (
        condition("ready"),
        condition("serving"),
        condition("terminating"),
    );
    Some(Endpoint {
        addresses: match address_type {
            AddressType::Fqdn => Vec::new(),
            AddressType::V4 | AddressType::V6 => addresses
                .iter()
                .filter_map(|f| endpoint_ip(f, address_type))
                .collect(),
        },
        ready,
        serving,
        terminating,
        node_name: object.text("nodeName"),
        zone: object.text("zone"),
        target_ref: object.opt("targetRef").and_then(|f| target_ref(&f)),
    })
}

fn endpoint_ip(field: &Field<'_>, address_type: AddressType) -> Option<IpAddr> {
    let ip = field.ip()?;
    if ip.is_ipv4() != (address_type == AddressType::V4) {
        field.invalid(format!("{ip} is not of the slice's addressType"), None);
    }
    Some(ip)
}

fn target_ref(field: &Field<'_>) -> Option<TargetRef> {
    let mut object = field.object()?;
    Some(TargetRef {
        kind: object.text("kind").unwrap_or_default(),
        namespace: object.text("namespace"),
        name: object.text("name").unwrap_or_default(),
        uid: object.text("uid"),
    })
}

const IP_FAMILIES: &[(&str, IpFamily)] = &[("IPv4", IpFamily::V4), ("IPv6", IpFamily::V6)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_as_a_shell_does() {
        let split = |text| split_words(text).map(|w| w.join("|"));
        assert_eq!(
            split("waymark x sample reviews --version v1"),
            Ok("waymark|x|sample|reviews|--version|v1".into())
        );
        assert_eq!(
            split(r#"a 'b c' "d \" e" f\ g '' "#),
            Ok(r#"a|b c|d " e|f g|"#.into())
        );
        assert_eq!(split("a'b'\"c\""), Ok("abc".into()));
        for bad in ["", "  ", "'a", "\"a", "a\\", "''"] {
            assert!(split_words(bad).is_err(), "{bad:?}");
        }
    }
}
