//! The operator's commands on the running bookinfo mesh: those of the article of 2023, word for word.

use waymark_testkit::mesh::Mesh;
use waymark_testkit::netns::isolated;

use crate::{WAYPOINT, waymark};

/// A table as header and rows of cells: cells are two or more blanks apart, or where the columns of the header begin.
fn rows(table: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let split = |line: &str| -> Vec<String> {
        line.split("  ")
            .map(str::trim)
            .filter(|c| !c.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let mut lines = table.lines();
    let header = split(lines.next().unwrap_or(""));
    (header, lines.map(split).collect())
}

#[test]
fn commands_of_the_article_show_the_reviews_waypoint() {
    isolated(|| {
        let mesh = Mesh::bookinfo(waymark());
        let _ = mesh.split(Some("productpage-v1"), mesh.service("reviews"), 20);
        let target = format!("deploy/{WAYPOINT}");
        listeners(&mesh, &target);
        clusters(&mesh, &target);
        routes(&mesh, &target);
        endpoints(&mesh, &target);
        others(&mesh, &target);
    });
}

fn listeners(mesh: &Mesh, target: &str) {
    let text = mesh.cli_ok(&["proxy-config", "listener", target, "--waypoint"]);
    let first = text.lines().next().unwrap();
    assert_eq!(
        first.split_whitespace().collect::<Vec<_>>(),
        ["LISTENER", "CHAIN", "MATCH", "DESTINATION"]
    );
    let vip = mesh.service("reviews").ip();
    let has = |parts: &[&str]| text.lines().any(|l| parts.iter().all(|p| l.contains(p)));
    assert!(
        has(&[
            "envoy://connect_originate",
            "ALL",
            "Cluster: connect_originate"
        ]),
        "{text}"
    );
    assert!(
        has(&[
            "envoy://main_internal",
            "inbound-vip|9080|http|reviews.default.svc.cluster.local",
            &format!("ip={vip} -> port=9080"),
        ]),
        "{text}"
    );
    for pod in ["reviews-v1", "reviews-v2", "reviews-v3"] {
        let ip = mesh.pod(pod);
        assert!(
            has(&[
                "envoy://main_internal",
                "direct-tcp",
                &format!("ip={ip} -> ANY"),
                "Cluster: encap"
            ]),
            "{text}"
        );
        for protocol in ["h2c", "http/1.1"] {
            let way = format!("ip={ip} -> application-protocol='{protocol}'");
            assert!(
                has(&["direct-http", &way, "Cluster: encap"]),
                "{way}:\n{text}"
            );
        }
    }
    assert!(
        has(&[
            "envoy://connect_terminate",
            "default",
            "ALL",
            "Inline Route:"
        ]),
        "{text}"
    );
    for other in ["productpage", "ratings", "details"] {
        assert!(!text.contains(other), "{text}");
    }
}

fn clusters(mesh: &Mesh, target: &str) {
    let text = mesh.cli_ok(&["proxy-config", "clusters", target]);
    let (header, rows) = rows(&text);
    assert_eq!(
        header,
        [
            "SERVICE FQDN",
            "PORT",
            "SUBSET",
            "DIRECTION",
            "TYPE",
            "DESTINATION RULE"
        ]
    );
    for subset in ["http", "http/v1", "http/v2", "http/v3"] {
        let want = [
            "reviews.default.svc.cluster.local",
            "9080",
            subset,
            "inbound-vip",
            "EDS",
        ];
        assert!(rows.iter().any(|r| r[..] == want), "{want:?}:\n{text}");
    }
    for (name, kind) in [
        ("connect_originate", "ORIGINAL_DST"),
        ("encap", "STATIC"),
        ("main_internal", "STATIC"),
        ("agent", "STATIC"),
        ("xds-grpc", "STATIC"),
        ("sds-grpc", "STATIC"),
        ("prometheus_stats", "STATIC"),
    ] {
        assert!(
            rows.iter().any(|r| r[..] == [name, "-", "-", "-", kind]),
            "{name}:\n{text}"
        );
    }
    let outbound = mesh.cli_ok(&["proxy-config", "cluster", target, "--direction", "outbound"]);
    assert_eq!(outbound.lines().count(), 1, "{outbound}");
}

fn routes(mesh: &Mesh, target: &str) {
    let text = mesh.cli_ok(&["proxy-config", "routes", target]);
    let (header, rows) = rows(&text);
    assert_eq!(
        header,
        ["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"]
    );
    let name = "inbound-vip|9080|http|reviews.default.svc.cluster.local";
    assert!(
        rows.iter()
            .any(|r| r[..] == [name, "inbound|http|9080", "*", "/*", "reviews.default"]),
        "{text}"
    );
    assert!(rows.iter().any(|r| r[0] == "encap"), "{text}");
    assert!(rows.iter().any(|r| r[0] == "default"), "{text}");

    let yaml = mesh.cli_ok(&[
        "proxy-config",
        "routes",
        target,
        "--name",
        name,
        "-o",
        "yaml",
    ]);
    for want in [
        "- name: inbound-vip|9080|http|reviews.default.svc.cluster.local",
        "operation: reviews:9080/*",
        "prefix: /",
        "virtual-service/reviews",
        "numRetries: 2",
        "retryOn: connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        "hostSelectionRetryMaxAttempts: \"5\"",
        "- name: envoy.retry_host_predicates.previous_hosts",
        "timeout: 0s",
        "- name: inbound-vip|9080|http/v1|reviews.default.svc.cluster.local\n            weight: 90",
        "- name: inbound-vip|9080|http/v2|reviews.default.svc.cluster.local\n            weight: 10",
    ] {
        assert!(yaml.contains(want), "{want}:\n{yaml}");
    }
}

fn endpoints(mesh: &Mesh, target: &str) {
    let text = mesh.cli_ok(&["proxy-config", "endpoints", target]);
    let (header, rows) = rows(&text);
    assert_eq!(header, ["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"]);
    for (pod, cluster) in [
        ("reviews-v1", "http/v1"),
        ("reviews-v2", "http/v2"),
        ("reviews-v3", "http/v3"),
        ("reviews-v1", "http"),
    ] {
        let address = format!("envoy://connect_originate/{}:9080", mesh.pod(pod));
        let cluster = format!("inbound-vip|9080|{cluster}|reviews.default.svc.cluster.local");
        assert!(
            rows.iter()
                .any(|r| r[..] == [address.as_str(), "HEALTHY", "OK", cluster.as_str()]),
            "{address} {cluster}:\n{text}"
        );
    }
    for other in ["productpage", "ratings", "details"] {
        assert!(!text.contains(other), "{text}");
    }
}

fn others(mesh: &Mesh, target: &str) {
    let secrets = mesh.cli_ok(&["proxy-config", "secret", target]);
    assert!(
        secrets.contains("Cert Chain") && secrets.contains("ROOTCA"),
        "{secrets}"
    );
    assert!(!secrets.contains("false"), "{secrets}");
    let status = mesh.cli_ok(&["proxy-status"]);
    assert!(
        status.contains(&format!("{WAYPOINT}-0.default")) && status.contains("CDS,LDS,EDS"),
        "{status}"
    );
    let compared = mesh.cli_ok(&["proxy-status", target]);
    for what in ["Clusters Match", "Listeners Match", "Routes Match"] {
        assert!(compared.contains(what), "{compared}");
    }
    let list = mesh.cli_ok(&["waypoint", "list", "-A"]);
    assert!(
        list.contains("bookinfo-reviews") && list.contains("True"),
        "{list}"
    );
    let status = mesh.cli_ok(&["waypoint", "status"]);
    assert!(status.contains("Programmed"), "{status}");
    let all = mesh.cli_ok(&["proxy-config", "all", target, "--with-headers"]);
    for section in [
        "BOOTSTRAP",
        "CLUSTER",
        "LISTENER",
        "ROUTE",
        "SECRET",
        "ENDPOINTS",
    ] {
        assert!(
            all.contains(&format!("------ {section} INFO ------")),
            "{all}"
        );
    }
    let report = mesh.cli_ok(&["analyze", "distribution"]);
    assert!(report.contains("Waypoints"), "{report}");
    let version = mesh.cli_ok(&["version"]);
    assert!(
        version.contains("control plane version:") && version.contains("proxies)"),
        "{version}"
    );
    let nothing = mesh.cli(&["proxy-config", "clusters", "deploy/none"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&nothing.stderr).contains("no pods match"),
        "{nothing:?}"
    );
}

#[test]
fn waypoints_are_applied_and_deleted_by_command() {
    isolated(|| {
        let mesh = Mesh::bookinfo(waymark());
        let text = mesh.cli_ok(&[
            "waypoint",
            "apply",
            "--enroll-namespace",
            "--wait",
            "-n",
            "default",
        ]);
        assert!(
            text.contains("waypoint default/waypoint applied") && text.contains("is ready!"),
            "{text}"
        );
        let again = mesh.cli_ok(&["waypoint", "apply", "--enroll-namespace", "-n", "default"]);
        assert!(
            again.contains("already has an enrolled Waypoint"),
            "{again}"
        );
        let text = mesh.cli_ok(&["waypoint", "delete", "waypoint", "nobody"]);
        assert_eq!(
            text,
            "waypoint default/waypoint deleted\nwaypoint default/nobody not found\n"
        );
    });
}
