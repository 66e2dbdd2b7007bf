//! An API server that runs.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};

use super::certificates::Certificates;
use super::crds::Crds;
use super::process::Process;
use super::programs::Programs;
use crate::cache;
use crate::http::Connection;
use crate::wait::{until, until_or};

/// What is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The controller manager too.
    pub controllers: bool,
    /// What is defined before the start is over.
    pub crds: Crds,
    /// An address of this network namespace by which pods reach the API server, as `kubernetes.default.svc`, and the API
    /// server reaches the kubelet.
    pub advertise: Option<Ipv4Addr>,
    /// Further arguments of the API server, like `--watch-cache=false`.
    pub api_server_args: Vec<String>,
}

/// etcd and an API server; they end when it is dropped, at the latest with the test's process.
#[derive(Debug)]
pub struct ApiServer {
    // Ended in this order.
    controller_manager: Option<Process>,
    api_server: Option<Process>,
    etcd: Process,
    programs: Programs,
    certificates: Certificates,
    options: Options,
    port: u16,
    etcd_port: u16,
    namespaces: AtomicU32,
    directory: tempfile::TempDir,
}

impl ApiServer {
    /// The one that the tests of a program share: without controllers, with upstream's CRDs (standard channel). A test takes
    /// a [`namespace`](Self::namespace) of its own. `None` as for [`start`](Self::start).
    ///
    /// # Panics
    /// As for [`start`](Self::start).
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<ApiServer>> = OnceLock::new();
        let options = Options {
            crds: Crds::UpstreamStandard,
            ..Options::default()
        };
        SHARED.get_or_init(|| Self::start(options)).as_ref()
    }

    /// Starts one and waits until it is ready. `None` where the programs cannot be had, which is said on stderr.
    ///
    /// # Panics
    /// When it does not become ready; under `CI=true` also when the programs cannot be had.
    #[must_use]
    pub fn start(options: Options) -> Option<Self> {
        Self::start_in(tempfile::tempdir().expect("temporary directory"), options)
    }

    /// As [`start`](Self::start), with all files in this directory.
    pub(super) fn start_in(directory: tempfile::TempDir, options: Options) -> Option<Self> {
        let programs = Programs::find()?;
        let crds = options.crds.find()?;
        let addresses = options.advertise.map(|node| [node.into(), FIRST_SERVICE]);
        let certificates =
            Certificates::make(directory.path(), addresses.as_ref().map_or(&[], |a| a));
        let (etcd, etcd_port) = start_etcd(&programs, directory.path());
        let mut server = Self {
            controller_manager: None,
            api_server: None,
            etcd,
            programs,
            certificates,
            options,
            port: free_port(),
            etcd_port,
            namespaces: AtomicU32::new(0),
            directory,
        };
        server.write_kubeconfigs();
        server.start_api_server();
        if server.options.controllers {
            server.start_controllers();
        }
        if !crds.is_empty() {
            server.install_crds(&crds);
        }
        Some(server)
    }

    /// Ends the API server, as `kill -9` does; etcd stays.
    pub fn stop_api_server(&mut self) {
        self.api_server = None;
    }

    /// Ends the API server gently and waits until it is gone, which takes it a minute when somebody watches; etcd stays.
    pub fn shut_down_api_server(&mut self) {
        if let Some(mut server) = self.api_server.take() {
            server.signal("TERM");
            server.wait();
        }
    }

    /// Starts the API server again, at the same address, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start_api_server(&mut self) {
        // Somebody else may have the port for a moment.
        for attempt in 1..=ATTEMPTS {
            let args = self.api_server_args();
            let mut server =
                Process::start(self.directory.path(), &self.programs.kube_apiserver, &args);
            let mut ended = None;
            let ready = until_or(START, || {
                ended = server.ended();
                ended.is_some() || self.is_ready()
            });
            if ready && ended.is_none() {
                self.api_server = Some(server);
                return;
            }
            assert!(
                ended.is_some() && attempt < ATTEMPTS,
                "the API server is not ready ({ended:?}): {}",
                server.last_words()
            );
        }
    }

    /// Sets the further arguments that the API server is started with from now on.
    pub fn set_args(&mut self, args: &[&str]) {
        self.options.api_server_args = args.iter().map(|arg| (*arg).to_owned()).collect();
    }

    /// Stops etcd where it is, as SIGSTOP does.
    pub fn pause_etcd(&self) {
        self.etcd.signal("STOP");
    }

    /// Lets etcd go on.
    pub fn resume_etcd(&self) {
        self.etcd.signal("CONT");
    }

    /// Forgets all versions of objects but the current ones. A server that is not told otherwise by `--watch-cache=false`
    /// still answers from memory what it has seen itself.
    ///
    /// # Panics
    /// When etcd does not do so.
    pub fn compact(&self) {
        let status = self.etcd("/v3/maintenance/status", &json!({}));
        let revision = status["header"]["revision"].as_str().expect("a revision");
        self.etcd(
            "/v3/kv/compaction",
            &json!({"revision": revision, "physical": true}),
        );
    }

    /// Applies custom resource definitions and waits until they are served.
    ///
    /// # Panics
    /// When the server refuses them.
    pub fn install_crds(&self, files: &[PathBuf]) {
        let mut args: Vec<String> = ["apply", "--server-side", "--force-conflicts"]
            .map(str::to_owned)
            .into();
        for file in files {
            args.extend(["-f".to_owned(), file.display().to_string()]);
        }
        self.run(&args);
        self.run(&[
            "wait",
            "--for=condition=Established",
            "customresourcedefinitions.apiextensions.k8s.io",
            "--all",
            "--timeout=60s",
        ]);
    }

    /// Applies manifests (server-side, with the field manager `kubectl`).
    ///
    /// # Panics
    /// When the server refuses one.
    pub fn apply(&self, manifests: &str) {
        let (accepted, said) = self.try_apply(manifests, &[]);
        assert!(accepted, "kubectl apply: {said}");
    }

    /// Applies manifests with further arguments; whether the server took all of them, and what kubectl said.
    pub fn try_apply(&self, manifests: &str, args: &[&str]) -> (bool, String) {
        let mut child = self
            .kubectl()
            .args(["apply", "--server-side", "-f", "-"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start kubectl");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // kubectl reads all before it says anything.
        let _ = stdin.write_all(manifests.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("wait for kubectl");
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    /// An object as JSON; `null` when it is not there.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Value {
        let text = self.run(&[
            "get",
            kind,
            name,
            "--namespace",
            namespace,
            "--ignore-not-found",
            "-o",
            "json",
        ]);
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Makes a namespace that nobody else has; its name.
    pub fn namespace(&self) -> String {
        let name = format!("test-{}", self.namespaces.fetch_add(1, Ordering::Relaxed));
        self.run(&["create", "namespace", &name]);
        name
    }

    /// Runs kubectl as `system:masters`; what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, args: &[impl AsRef<std::ffi::OsStr>]) -> String {
        let printed = cache::run(self.kubectl().args(args));
        printed.unwrap_or_else(|why| panic!("{why}"))
    }

    /// kubectl of the server's version, as `system:masters`.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.programs.kubectl);
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("KUBECACHEDIR", self.directory.path().join("kubectl-cache"));
        command
    }

    /// Helm as `system:masters`, with a home of its own. `None` as for [`helm`](super::helm).
    #[must_use]
    pub fn helm(&self) -> Option<Command> {
        let mut command = Command::new(super::helm()?);
        command.env("KUBECONFIG", self.kubeconfig());
        for (variable, directory) in [
            ("HELM_CACHE_HOME", "helm-cache"),
            ("HELM_CONFIG_HOME", "helm-config"),
            ("HELM_DATA_HOME", "helm-data"),
        ] {
            command.env(variable, self.directory.path().join(directory));
        }
        Some(command)
    }

    /// A token of a service account that exists, for the API server itself or for another audience like `istio-ca`.
    ///
    /// # Panics
    /// When the server gives none.
    pub fn token(&self, namespace: &str, service_account: &str, audience: Option<&str>) -> String {
        let mut args = vec!["create", "token", service_account, "--namespace", namespace];
        args.extend(
            audience
                .iter()
                .flat_map(|audience| ["--audience", *audience]),
        );
        self.run(&args).trim().to_owned()
    }

    /// The kubeconfig of `system:masters`.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("admin.kubeconfig")
    }

    /// That of a component of Kubernetes, which is there from the start.
    pub(super) fn kubeconfig_of_component(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.kubeconfig"))
    }

    /// Where all its files are, for as long as it lives.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A kubeconfig of a service account that exists.
    ///
    /// # Panics
    /// When the server gives no token.
    pub fn kubeconfig_of(&self, namespace: &str, service_account: &str) -> PathBuf {
        let token = self.token(namespace, service_account, None);
        self.write_kubeconfig(
            &format!("{namespace}.{service_account}"),
            &json!({ "token": token }),
        )
    }

    /// The file of the CA that signed the server's certificate (what pods have as `ca.crt`).
    #[must_use]
    pub fn ca_file(&self) -> &Path {
        &self.certificates.ca
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    fn is_ready(&self) -> bool {
        TcpStream::connect_timeout(&self.address(), Duration::from_secs(1)).is_ok()
            && cache::run(self.kubectl().args(["get", "--raw", "/readyz"])).is_ok()
    }

    fn start_controllers(&mut self) {
        let ca = self.certificates.ca.display();
        let key = self.certificates.service_account.0.display();
        let kubeconfig = self.kubeconfig_of_component(CONTROLLER_MANAGER);
        let mut args = vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--root-ca-file={ca}"),
            format!("--service-account-private-key-file={key}"),
            "--use-service-account-credentials=true".to_owned(),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        if self.options.advertise.is_none() {
            // No kubelet says that a Node is alive, and pods of dead ones are not ready.
            args.push("--controllers=*,-node-lifecycle-controller".to_owned());
        }
        let program = &self.programs.kube_controller_manager;
        let mut process = Process::start(self.directory.path(), program, &args);
        // It has begun when it gives a namespace its service account.
        until("the controller manager's first deed", START, || {
            assert!(process.ended().is_none(), "{}", process.last_words());
            let account = self.get("serviceaccount", "default", "default");
            (!account.is_null()).then_some(())
        });
        self.controller_manager = Some(process);
    }

    fn api_server_args(&self) -> Vec<String> {
        let Certificates {
            ca,
            serving: (certificate, key),
            admin: (admin, admin_key),
            service_account: (account_key, account_public),
            ..
        } = &self.certificates;
        let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        let mut args = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.port),
            file("tls-cert-file", certificate),
            file("tls-private-key-file", key),
            file("client-ca-file", ca),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            file("service-account-key-file", account_public),
            file("service-account-signing-key-file", account_key),
            "--authorization-mode=Node,RBAC".to_owned(),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--allow-privileged=true".to_owned(),
            "--profiling=false".to_owned(),
        ];
        if let Some(address) = self.options.advertise {
            args.extend([
                "--bind-address=0.0.0.0".to_owned(),
                format!("--advertise-address={address}"),
                file("kubelet-client-certificate", admin),
                file("kubelet-client-key", admin_key),
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
            ]);
        } else {
            args.extend([
                "--bind-address=127.0.0.1".to_owned(),
                "--advertise-address=127.0.0.1".to_owned(),
                // Its own address is a loopback one, which no EndpointSlice may have.
                "--endpoint-reconciler-type=none".to_owned(),
            ]);
        }
        if !self.options.controllers {
            // Nobody makes the service account `default` that it would ask for.
            args.push("--disable-admission-plugins=ServiceAccount".to_owned());
        }
        args.extend(self.options.api_server_args.iter().cloned());
        args
    }

    fn write_kubeconfigs(&self) {
        let certificates = &self.certificates;
        let users = [
            ("admin", &certificates.admin),
            (CONTROLLER_MANAGER, &certificates.controller_manager),
            (SCHEDULER, &certificates.scheduler),
            (PROXY, &certificates.proxy),
            (KUBELET, &certificates.kubelet),
        ];
        for (name, (certificate, key)) in users {
            let user = json!({
                "client-certificate-data": file_in_base64(certificate),
                "client-key-data": file_in_base64(key),
            });
            self.write_kubeconfig(name, &user);
        }
    }

    fn write_kubeconfig(&self, name: &str, user: &Value) -> PathBuf {
        let cluster = json!({
            "server": format!("https://{}", self.address()),
            "certificate-authority-data": file_in_base64(&self.certificates.ca),
        });
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "testkit", "cluster": cluster }],
            "users": [{ "name": name, "user": user }],
            "contexts": [{ "name": "testkit", "context": { "cluster": "testkit", "user": name } }],
            "current-context": "testkit",
        });
        let path = self.directory.path().join(format!("{name}.kubeconfig"));
        fs::write(&path, config.to_string()).expect("write a kubeconfig");
        path
    }

    fn etcd(&self, path: &str, request: &Value) -> Value {
        let address = (Ipv4Addr::LOCALHOST, self.etcd_port).into();
        let mut connection = Connection::open(None, address).expect("connect to etcd");
        let answer = connection
            .request("POST", path, &[], request.to_string().as_bytes())
            .expect("etcd answers");
        assert_eq!(answer.status, 200, "etcd: {path}: {}", answer.json());
        answer.json()
    }
}

fn start_etcd(programs: &Programs, directory: &Path) -> (Process, u16) {
    for attempt in 1.. {
        let (client, peer) = (free_port(), free_port());
        let [client_url, peer_url] = [client, peer].map(|port| format!("http://127.0.0.1:{port}"));
        let args = [
            format!("--data-dir={}", directory.join("etcd").display()),
            format!("--listen-client-urls={client_url}"),
            format!("--advertise-client-urls={client_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster=default={peer_url}"),
            // Nothing has to outlive the test.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        let mut etcd = Process::start(directory, &programs.etcd, &args);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, client));
        let mut ended = None;
        let listens = until_or(START, || {
            ended = etcd.ended();
            ended.is_some() || TcpStream::connect(address).is_ok()
        });
        if listens && ended.is_none() {
            return (etcd, client);
        }
        assert!(
            ended.is_some() && attempt < ATTEMPTS,
            "etcd does not listen ({ended:?}): {}",
            etcd.last_words()
        );
        let _ = fs::remove_dir_all(directory.join("etcd"));
    }
    unreachable!("the last attempt panics")
}

/// A port that nobody has at this moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("local address").port()
}

fn file_in_base64(path: &Path) -> String {
    let bytes = fs::read(path).expect("read what was just written");
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The services' addresses.
pub(super) const SERVICES: &str = "10.96.0.0/16";
/// The first of the services' addresses is `kubernetes.default`'s.
const FIRST_SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

const CONTROLLER_MANAGER: &str = "kube-controller-manager";
/// Components of a node, by whose names their kubeconfigs are called.
pub(super) const SCHEDULER: &str = "kube-scheduler";
pub(super) const PROXY: &str = "kube-proxy";
pub(super) const KUBELET: &str = "kubelet";

/// How long a program may take to come up on a machine that has much else to do.
const START: Duration = Duration::from_secs(120);

/// How often a program is started whose port somebody else took meanwhile.
const ATTEMPTS: u32 = 3;
