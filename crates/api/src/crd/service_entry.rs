//! `spec` of ServiceEntry and of WorkloadEntry, which also is that of its endpoints.

use super::schema::{Schema, list, map, object, one_of, port, text, text_map, texts, uint32};
use crate::istio::service_entry::{Location, Resolution};

pub(super) fn spec() -> Schema {
    let selector_label = text().length(0..=63).pattern("^[^*]*$");
    object([
        (
            "hosts",
            list(text().rule("self != '*'", "a host cannot be the wildcard alone"))
                .items(1..=256)
                .doc("Full names or wildcards."),
        ),
        (
            "addresses",
            list(text().length(0..=64))
                .items(0..=256)
                .doc("Virtual addresses, single ones or networks."),
        ),
        (
            "ports",
            list(service_port())
                .items(0..=256)
                .keyed_by("name")
                .rule(
                    "self.all(a, self.exists_one(b, a.number == b.number))",
                    "port numbers are unique",
                )
                .doc("The ports that clients use."),
        ),
        (
            "location",
            one_of(Location::ALLOWED).doc("Whether the service is of the mesh."),
        ),
        (
            "resolution",
            one_of(Resolution::ALLOWED).doc("How the endpoints are found."),
        ),
        (
            "endpoints",
            list(workload())
                .items(0..=4096)
                .doc("Where the service is; not together with workloadSelector."),
        ),
        (
            "workloadSelector",
            object([("labels", map(selector_label).entries(256))])
                .doc("Labels of the Pods and WorkloadEntries that are the service."),
        ),
        (
            "exportTo",
            texts().doc("Namespaces that see it: `*` (all), `.` (its own) or names."),
        ),
        (
            "subjectAltNames",
            texts().doc("Identities that the endpoints may have."),
        ),
    ])
    .required(&["hosts"])
    .rule(
        "!(has(self.workloadSelector) && has(self.endpoints))",
        "workloadSelector and endpoints exclude each other",
    )
    .rule(
        "!has(self.addresses) || !has(self.resolution) || self.resolution in ['NONE', 'STATIC'] \
         || !self.addresses.exists(address, address.contains('/'))",
        "networks are addresses only with resolution NONE or STATIC",
    )
    .rule(
        "!has(self.endpoints) || (has(self.resolution) && self.resolution != 'NONE')",
        "resolution NONE has no endpoints",
    )
    .rule(
        "!has(self.endpoints) || !has(self.resolution) || self.resolution != 'DNS_ROUND_ROBIN' \
         || self.endpoints.size() <= 1",
        "resolution DNS_ROUND_ROBIN has one endpoint at most",
    )
}

pub(super) fn workload() -> Schema {
    let address = text()
        .length(0..=256)
        .rule(
            "!self.startsWith('unix://') || self.matches('^unix://[/@]')",
            "a Unix socket is an absolute path or an abstract name",
        )
        .rule(
            "!self.startsWith('unix://') || !self.endsWith('/')",
            "a Unix socket is no directory",
        );
    let ports = map(port()).entries(128).rule(
        "self.all(name, name.size() < 63 && name.matches('^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$'))",
        "names of ports are letters, digits and hyphens between them, at most 62",
    );
    object([
        (
            "address",
            address.doc("An address, a host name or, behind unix://, a socket."),
        ),
        ("ports", ports.doc("Ports, by the service port's name.")),
        ("labels", text_map().entries(256)),
        (
            "network",
            text().length(0..=2048).doc("The network it is in."),
        ),
        (
            "locality",
            text().length(0..=2048).doc("region/zone/subzone"),
        ),
        ("weight", uint32().doc("Its share beside other endpoints.")),
        (
            "serviceAccount",
            text().length(0..=253).doc("The account it runs as."),
        ),
    ])
    .rule(
        "has(self.address) || has(self.network)",
        "an address is required",
    )
    .rule(
        "!has(self.ports) || !has(self.address) || !self.address.startsWith('unix://')",
        "a Unix socket has no ports",
    )
}

fn service_port() -> Schema {
    object([
        ("name", text().length(0..=256)),
        ("number", port().doc("The port that clients use.")),
        (
            "protocol",
            text()
                .length(0..=256)
                .doc("What it speaks: HTTP, HTTP2, GRPC, TCP, TLS, ..."),
        ),
        (
            "targetPort",
            port().doc("The port of the endpoints [default: number]."),
        ),
    ])
    .required(&["number", "name"])
}
