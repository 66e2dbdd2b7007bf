#![expect(clippy::unwrap_used, reason = "tests")]

use clap::Parser;

use waymark_kubernetes::Access;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn parse(args: &[&str]) -> Args {
    Cli::parse_from([&["controlplane"], args].concat()).args
}

#[test]
fn flags_win_over_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text =
        r#"{"mesh-dir": "/file", "state-dir": "/state", "no-deploy": true, "drain-seconds": 9}"#;
    fs::write(file.path(), text).unwrap();
    let args = parse(&[
        "--mesh-dir",
        "/flag",
        "--config",
        file.path().to_str().unwrap(),
    ]);
    let settings = args.settings().unwrap();
    assert_eq!(settings.source, SourceSettings::Directory("/flag".into()));
    assert_eq!(settings.state_dir, Path::new("/state"));
    assert_eq!(
        (settings.deploy, settings.drain),
        (Deploy::No, Duration::from_secs(9))
    );
}

#[test]
fn an_unknown_key_is_refused_with_its_name() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), r#"{"mesh": "x"}"#).unwrap();
    let error = parse(&["--config", file.path().to_str().unwrap()])
        .settings()
        .unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("unknown field `mesh`"), "{source}");
}

#[test]
fn switches_need_no_value() {
    let args = parse(&["--mesh-dir", "a", "--state-dir", "b", "--no-deploy"]);
    assert_eq!(args.settings().unwrap().deploy, Deploy::No);
}

#[test]
fn waypoints_are_ours_or_an_envoy_that_is_somewhere() {
    let settings = |more: &[&str]| {
        let words = [
            &["--mesh-dir", "a", "--state-dir", "b", "--waypoint-binary"],
            more,
        ];
        parse(&words.concat()).settings()
    };
    assert_eq!(
        settings(&["waymark"]).unwrap().waypoint_binary,
        WaypointBinary::Waymark
    );
    let envoy = settings(&["envoy=/e"]).unwrap();
    assert_eq!(
        (envoy.waypoint_binary, envoy.envoy),
        (WaypointBinary::Envoy, Some("/e".into()))
    );
    let envoy = settings(&["envoy", "--envoy", "/f"]).unwrap();
    assert_eq!(
        (envoy.waypoint_binary, envoy.envoy),
        (WaypointBinary::Envoy, Some("/f".into()))
    );
    for (wanted, error) in [
        (
            "nginx",
            "--waypoint-binary \"nginx\": want waymark, envoy or envoy=FILE",
        ),
        (
            "envoy=",
            "--waypoint-binary \"envoy=\": want waymark, envoy or envoy=FILE",
        ),
    ] {
        assert_eq!(settings(&[wanted]).unwrap_err().to_string(), error);
    }
    if std::env::var_os("WAYMARK_ENVOY").is_none() {
        assert!(matches!(settings(&["envoy"]), Err(SettingsError::NoEnvoy)));
    }
}

#[test]
fn access_logs_are_text_or_json_in_a_file() {
    let settings = |more: &[&str]| {
        let words = [&["--mesh-dir", "a", "--state-dir", "b"], more];
        parse(&words.concat()).settings().map(|s| s.access_log)
    };
    assert_eq!(settings(&[]).unwrap(), None);
    assert_eq!(settings(&["--access-log-file", ""]).unwrap(), None);
    let log = settings(&["--access-log-file", "/dev/stdout"]).unwrap();
    assert_eq!(log.unwrap().format, AccessLogFormat::Text(None));
    let json = [
        "--access-log-file",
        "/l",
        "--access-log-encoding",
        "JSON",
        "--access-log-format",
    ];
    let log = settings(&[&json[..], &[r#"{"code": "%RESPONSE_CODE%"}"#]].concat()).unwrap();
    let AccessLogFormat::Json(Some(fields)) = log.unwrap().format else {
        panic!("not JSON");
    };
    assert_eq!(fields["code"], "%RESPONSE_CODE%");
    for (words, error) in [
        (
            [&json[..], &["%RESPONSE_CODE%"]].concat(),
            "--access-log-format: with --access-log-encoding JSON it has to be an object",
        ),
        (
            vec!["--access-log-file", "/l", "--access-log-encoding", "XML"],
            "--access-log-encoding \"XML\": want TEXT or JSON",
        ),
        (
            vec!["--access-log-format", "x"],
            "--access-log-format without --access-log-file",
        ),
    ] {
        assert_eq!(settings(&words).unwrap_err().to_string(), error);
    }
}

fn access(args: &[&str]) -> Access {
    let args = [args, &["--state-dir", "s", "--no-deploy"]].concat();
    match parse(&args).settings().unwrap().source {
        SourceSettings::Kubernetes(cluster) => cluster.access,
        SourceSettings::Directory(directory) => panic!("{}", directory.display()),
    }
}

#[test]
fn the_source_is_a_directory_a_named_cluster_or_the_one_around() {
    assert_eq!(
        access(&["--kubeconfig", "k", "--context", "c"]),
        Access::Kubeconfig {
            file: "k".into(),
            context: Some("c".to_owned())
        }
    );
    let around = ["--kubernetes-service-host", "10.96.0.1"];
    assert_eq!(access(&around), Access::InCluster);
    let directory = parse(&[&around[..], &["--mesh-dir", "m", "--state-dir", "s"]].concat());
    assert_eq!(
        directory.settings().unwrap().source,
        SourceSettings::Directory("m".into())
    );
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
        assert_eq!(
            parse(&["--state-dir", "s"])
                .settings()
                .unwrap_err()
                .to_string(),
            "--mesh-dir or --kubeconfig is missing, and this is no pod of a cluster"
        );
    }
    let both = Cli::try_parse_from(["controlplane", "--mesh-dir", "m", "--kubeconfig", "k"]);
    assert!(both.is_err());
}

fn cluster(args: &[&str]) -> Result<(Settings, ClusterSettings), SettingsError> {
    let args = [&["--kubeconfig", "k", "--state-dir", "s"], args].concat();
    let settings = parse(&args).settings()?;
    match settings.source.clone() {
        SourceSettings::Kubernetes(cluster) => Ok((settings, *cluster)),
        SourceSettings::Directory(directory) => panic!("{}", directory.display()),
    }
}

#[test]
fn a_cluster_has_defaults_of_its_namespace_and_revision() {
    let (settings, cluster) = cluster(&[
        "--waypoint-image",
        "i:1",
        "--system-namespace",
        "mesh",
        "--revision",
        "blue",
    ])
    .unwrap();
    let accounts: Vec<String> = settings
        .node_accounts
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(accounts, ["mesh/waymark-node", "mesh/ztunnel"]);
    assert_eq!(settings.max_connection_age, Some(Duration::from_secs(1800)));
    assert_eq!(settings.xds_address.ip().to_string(), "127.0.0.1");
    assert_eq!(cluster.discovery_address, "istiod-blue.mesh.svc:15012");
    assert_eq!(
        cluster.serving_names("blue"),
        ["istiod-blue.mesh.svc", "istiod-blue.mesh.svc"]
    );
    let lease = cluster.lease("blue");
    assert_eq!(
        (lease.namespace.as_str(), lease.name.as_str()),
        ("mesh", "waymark-leader-blue")
    );
    assert_eq!(lease.retry_period, Duration::from_millis(7500));
    let template = cluster.template.unwrap();
    assert_eq!(
        (
            template.images.waymark.as_str(),
            template.images.istio.as_str()
        ),
        ("i:1", "i:1")
    );
    assert_eq!(template.discovery_address, "istiod-blue.mesh.svc:15012");
}

#[test]
fn waypoints_of_a_cluster_are_made_after_a_template() {
    let template = r#"{"istioImage": "proxyv2:1", "imagePullSecrets": ["s"], "pod": {"nodeSelector": {"a": "b"}}}"#;
    let (_, with) = cluster(&["--waypoint-image", "i", "--waypoint-template", template]).unwrap();
    let with = with.template.unwrap();
    assert_eq!(with.images.istio, "proxyv2:1");
    assert_eq!(with.images.pull_secrets, ["s"]);
    assert_eq!(with.pod.node_selector.unwrap()["a"], "b");
    assert_eq!(with.pod.resources["requests"]["cpu"], "100m");
    for (args, error) in [
        (
            &[][..],
            "--waypoint-image is missing; with --no-deploy no waypoints are deployed",
        ),
        (
            &[
                "--waypoint-image",
                "i",
                "--waypoint-template",
                r#"{"image": 1}"#,
            ],
            "--waypoint-template",
        ),
        (
            &["--no-deploy", "--waypoint-classes", "istio"],
            "--waypoint-classes \"istio\": want istio-waypoint or waymark-waypoint",
        ),
        (
            &[
                "--no-deploy",
                "--discovery-address",
                "istiod.istio-system.svc",
            ],
            "--discovery-address \"istiod.istio-system.svc\": want HOST:PORT",
        ),
    ] {
        assert_eq!(cluster(args).unwrap_err().to_string(), error);
    }
}
