//! The tables of workloads, services, policies and certificates.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::table::Table;

/// The entries of a list, which may also be a map whose values they are.
fn entries(dump: &Value, key: &str) -> Vec<Value> {
    match &dump[key] {
        Value::Array(list) => list.clone(),
        Value::Object(map) => map.values().cloned().collect(),
        _ => Vec::new(),
    }
}

/// Workloads, by `<namespace>.<name>` and node.
pub(super) fn workloads(dump: &Value) -> Vec<Value> {
    let mut list = entries(dump, "workloads");
    list.sort_by_key(|w| (text(w, "namespace"), text(w, "name"), text(w, "node")));
    list
}

/// Services, by namespace, name and hostname.
pub(super) fn services(dump: &Value) -> Vec<Value> {
    let mut list = entries(dump, "services");
    list.sort_by_key(|s| (text(s, "namespace"), text(s, "name"), text(s, "hostname")));
    list
}

/// Policies, by namespace and name.
pub(super) fn policies(dump: &Value) -> Vec<Value> {
    let mut list = entries(dump, "policies");
    list.sort_by_key(|p| (text(p, "namespace"), text(p, "name")));
    list
}

/// Certificates, in the order of the dump.
pub(super) fn certificates(dump: &Value) -> Vec<Value> {
    entries(dump, "certificates")
}

pub(super) fn workload_table(workloads: &[Value], services: &[Value]) -> String {
    let mut table = Table::new(1);
    table.row([
        "NAMESPACE",
        "POD NAME",
        "ADDRESS",
        "NODE",
        "WAYPOINT",
        "PROTOCOL",
    ]);
    for workload in workloads {
        let addresses: Vec<&str> = strings(&workload["workloadIps"]);
        let address = if addresses.is_empty() {
            text(workload, "hostname")
        } else {
            addresses.join(",")
        };
        table.row([
            text(workload, "namespace"),
            text(workload, "name"),
            address,
            text(workload, "node"),
            waypoint(workload, services),
            text(workload, "protocol"),
        ]);
    }
    table.render()
}

pub(super) fn service_table(services: &[Value], workloads: &[Value]) -> String {
    let mut table = Table::new(1);
    table.row([
        "NAMESPACE",
        "SERVICE NAME",
        "SERVICE VIP",
        "WAYPOINT",
        "ENDPOINTS",
    ]);
    for service in services {
        let vips: Vec<&str> = strings(&service["vips"])
            .into_iter()
            .map(|vip| vip.split_once('/').map_or(vip, |(_, ip)| ip))
            .collect();
        table.row([
            text(service, "namespace"),
            text(service, "name"),
            vips.join(","),
            waypoint(service, services),
            endpoints(service, workloads),
        ]);
    }
    table.render()
}

pub(super) fn policy_table(policies: &[Value]) -> String {
    let mut table = Table::new(1);
    table.row(["NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"]);
    for policy in policies {
        table.row(["namespace", "name", "action", "scope"].map(|key| text(policy, key)));
    }
    table.render()
}

pub(super) fn certificate_table(certificates: &[Value], now: OffsetDateTime) -> String {
    let mut table = Table::new(5);
    table.row([
        "CERTIFICATE NAME",
        "TYPE",
        "STATUS",
        "VALID CERT",
        "SERIAL NUMBER",
        "NOT AFTER",
        "NOT BEFORE",
    ]);
    for certificate in certificates {
        for row in certificate_rows(certificate, now) {
            table.row(row);
        }
    }
    table.render()
}

fn certificate_rows(certificate: &Value, now: OffsetDateTime) -> Vec<[String; 7]> {
    let identity = text(certificate, "identity");
    let state = match text(certificate, "state") {
        state if state.contains("Unavailable") => "Unavailable".to_owned(),
        state => state,
    };
    let chain = list(&certificate["certChain"]);
    let roots = list(&certificate["rootCerts"]);
    if chain.is_empty() {
        let na = || "NA".to_owned();
        return vec![[identity, na(), state, "false".into(), na(), na(), na()]];
    }
    let last = chain.len() - 1;
    let kind = |index: usize| match index {
        0 => "Leaf",
        // Dumps of old have the root at the end of the chain.
        index if roots.is_empty() && index == last => "Root",
        _ => "Intermediate",
    };
    let chain = chain.iter().enumerate().map(|(i, c)| (kind(i), c));
    let roots = roots.iter().map(|c| ("Root", c));
    chain
        .chain(roots)
        .map(|(kind, shown)| {
            [
                identity.clone(),
                kind.to_owned(),
                state.clone(),
                is_valid(shown, now).to_string(),
                serial(&text(shown, "serialNumber")),
                date(shown, "expirationTime"),
                date(shown, "validFrom"),
            ]
        })
        .collect()
}

fn is_valid(certificate: &Value, now: OffsetDateTime) -> bool {
    let at = |key: &str| OffsetDateTime::parse(&text(certificate, key), &Rfc3339).ok();
    matches!((at("validFrom"), at("expirationTime")), (Some(from), Some(to)) if from <= now && now <= to)
}

fn date(certificate: &Value, key: &str) -> String {
    match text(certificate, key) {
        empty if empty.is_empty() => "NA".to_owned(),
        date => date,
    }
}

/// A decimal number of any length in hexadecimal digits; what is none stays as it is.
fn serial(decimal: &str) -> String {
    let mut digits: Vec<u32> = Vec::new();
    for c in decimal.chars() {
        let Some(mut carry) = c.to_digit(10) else {
            return decimal.to_owned();
        };
        // Hexadecimal digits, the lowest first.
        for digit in &mut digits {
            let value = *digit * 10 + carry;
            *digit = value % 16;
            carry = value / 16;
        }
        if carry > 0 {
            digits.push(carry);
        }
    }
    let hex: String = digits
        .iter()
        .rev()
        .filter_map(|digit| char::from_digit(*digit, 16))
        .collect();
    if hex.is_empty() { "0".to_owned() } else { hex }
}

/// The name of the service that is the waypoint; `None` without one, `NA` when it is not known.
fn waypoint(object: &Value, services: &[Value]) -> String {
    let Some(destination) = object["waypoint"]["destination"]
        .as_str()
        .filter(|d| !d.is_empty())
    else {
        return "None".to_owned();
    };
    let is_meant = |service: &&Value| {
        let host = format!(
            "{}/{}",
            text(service, "namespace"),
            text(service, "hostname")
        );
        host == destination || strings(&service["vips"]).contains(&destination)
    };
    services
        .iter()
        .find(is_meant)
        .map_or_else(|| "NA".to_owned(), |service| text(service, "name"))
}

/// `<healthy>/<all>`.
fn endpoints(service: &Value, workloads: &[Value]) -> String {
    let endpoints: Vec<&Value> = match &service["endpoints"] {
        Value::Object(map) => map.values().collect(),
        Value::Array(list) => list.iter().collect(),
        _ => Vec::new(),
    };
    let is_healthy = |endpoint: &&&Value| {
        workloads
            .iter()
            .any(|w| w["uid"] == endpoint["workloadUid"] && w["status"] == "Healthy")
    };
    let healthy = endpoints.iter().filter(is_healthy).count();
    format!("{healthy}/{}", endpoints.len())
}

pub(super) fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

pub(super) fn strings(value: &Value) -> Vec<&str> {
    list(value).iter().filter_map(Value::as_str).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dump() -> Value {
        json!({
            "workloads": [
                {"uid": "u2", "namespace": "shop", "name": "reviews-v1", "workloadIps": ["10.0.0.2"], "node": "n1",
                    "protocol": "HBONE", "status": "Healthy", "waypoint": {"destination": "shop/waypoint.shop.svc.cluster.local"}},
                {"uid": "u1", "namespace": "shop", "name": "cart", "hostname": "cart.example.org", "node": "",
                    "protocol": "TCP", "status": "Unhealthy"}],
            "services": {
                "a": {"namespace": "shop", "name": "waypoint", "hostname": "waypoint.shop.svc.cluster.local",
                    "vips": ["/10.96.0.9"], "endpoints": {}},
                "b": {"namespace": "shop", "name": "reviews", "hostname": "reviews.shop.svc.cluster.local",
                    "vips": ["net/10.96.0.1", "net/fd00::1"], "waypoint": {"destination": "other/w"},
                    "endpoints": {"u2": {"workloadUid": "u2"}, "u1": {"workloadUid": "u1"}}}},
            "policies": [{"namespace": "shop", "name": "deny", "action": "Deny", "scope": "Namespace"}],
            "certificates": [
                {"identity": "spiffe://c/ns/shop/sa/a", "state": "Available",
                    "certChain": [{"serialNumber": "256", "validFrom": "2020-01-01T00:00:00Z", "expirationTime": "2030-01-01T00:00:00Z"}],
                    "rootCerts": [{"serialNumber": "18446744073709551616", "validFrom": "2020-01-01T00:00:00Z", "expirationTime": "2021-01-01T00:00:00Z"}]},
                {"identity": "spiffe://c/ns/shop/sa/b", "state": "Unavailable: no", "certChain": [], "rootCerts": []}]})
    }

    #[test]
    fn tables_are_istioctls() {
        let dump = dump();
        let (workloads, services) = (workloads(&dump), services(&dump));
        assert_eq!(
            workload_table(&workloads, &services),
            "NAMESPACE POD NAME   ADDRESS          NODE WAYPOINT PROTOCOL\n\
             shop      cart       cart.example.org      None     TCP\n\
             shop      reviews-v1 10.0.0.2         n1   waypoint HBONE\n"
        );
        assert_eq!(
            service_table(&services, &workloads),
            "NAMESPACE SERVICE NAME SERVICE VIP       WAYPOINT ENDPOINTS\n\
             shop      reviews      10.96.0.1,fd00::1 NA       1/2\n\
             shop      waypoint     10.96.0.9         None     0/0\n"
        );
        assert_eq!(
            policy_table(&policies(&dump)),
            "NAMESPACE POLICY NAME ACTION SCOPE\nshop      deny        Deny   Namespace\n"
        );
    }

    #[test]
    fn certificates_are_told_apart_by_their_place() {
        let now = OffsetDateTime::parse("2026-01-01T00:00:00Z", &Rfc3339).expect("date");
        let rows: Vec<Vec<String>> = certificates(&dump())
            .iter()
            .flat_map(|c| certificate_rows(c, now))
            .map(|row| row[1..5].to_vec())
            .collect();
        assert_eq!(
            rows,
            [
                ["Leaf", "Available", "true", "100"],
                ["Root", "Available", "false", "10000000000000000"],
                ["NA", "Unavailable", "false", "NA"],
            ]
        );
    }
}
