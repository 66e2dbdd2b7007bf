//! The part of a kubelet that a test plays: what a pod's container is given.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::api_server::ApiServer;
use crate::wait::until;

/// What the first container of a pod is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// `args`, with `$(NAME)` filled in.
    pub args: Vec<String>,
    /// `env`, references to the pod's fields followed.
    pub env: Vec<(String, String)>,
}

impl Container {
    /// Reads a Pod as the API server has it, or the template of one with a name.
    ///
    /// # Panics
    /// When it refers to something else than fields of the pod and resources of the container.
    #[must_use]
    pub fn of(pod: &Value) -> Self {
        let container = &pod["spec"]["containers"][0];
        let mut env: Vec<(String, String)> = Vec::new();
        for variable in container["env"].as_array().into_iter().flatten() {
            let name = variable["name"].as_str().expect("a name").to_owned();
            let from = &variable["valueFrom"];
            let value = if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
                field(pod, path)
            } else if let Some(resource) = from["resourceFieldRef"]["resource"].as_str() {
                resource_field(container, resource)
            } else {
                assert!(from.is_null(), "{name} is from {from}");
                expanded(variable["value"].as_str().unwrap_or_default(), &env)
            };
            env.push((name, value));
        }
        let args = container["args"].as_array().into_iter().flatten();
        let args = args
            .filter_map(Value::as_str)
            .map(|arg| expanded(arg, &env));
        Self {
            args: args.collect(),
            env,
        }
    }
}

/// Makes the Pod of a Deployment (the API server has no controllers, or is not waited for), with an address, running and
/// ready; the Pod.
///
/// # Panics
/// When the server refuses it.
#[must_use]
pub fn run_pod(api: &ApiServer, deployment: &Value, name: &str, address: &str) -> Value {
    let mut pod = deployment["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["namespace"] = deployment["metadata"]["namespace"].clone();
    pod["spec"]["nodeName"] = "node-1".into();
    api.apply(&pod.to_string());
    set_running(api, &pod["metadata"], address);
    let namespace = pod["metadata"]["namespace"].as_str().expect("a namespace");
    api.get("pod", namespace, name)
}

/// Gives a Pod that exists an address and says that it is running and ready. `metadata` has its name and namespace.
///
/// # Panics
/// When the server refuses it.
pub fn set_running(api: &ApiServer, metadata: &Value, address: &str) {
    let text = |field: &str| metadata[field].as_str().expect("a text").to_owned();
    let status = json!({"status": {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "hostIP": "10.244.0.1",
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    api.run(&[
        "patch",
        "pod",
        &text("name"),
        "--namespace",
        &text("namespace"),
        "--subresource=status",
        "--type=merge",
        "--patch",
        &status.to_string(),
    ]);
}

/// Fills a directory with what the first container of a Pod finds at its volumes' paths: labels and annotations, tokens for
/// the pod's service account, config maps (waited for).
///
/// # Panics
/// When it mounts something else, or the server does not have it.
pub fn mount_volumes(api: &ApiServer, pod: &Value, root: &Path) {
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array();
    for mount in mounts.into_iter().flatten() {
        let at = mount["mountPath"].as_str().expect("mountPath");
        let directory = root.join(at.trim_start_matches('/'));
        fs::create_dir_all(&directory).expect("make a directory");
        let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == mount["name"])
            .expect("a volume of that name");
        for (file, content) in files(api, pod, volume) {
            fs::write(directory.join(file), content).expect("write a file");
        }
    }
}

fn files(api: &ApiServer, pod: &Value, volume: &Value) -> Vec<(String, String)> {
    let namespace = pod["metadata"]["namespace"].as_str().expect("a namespace");
    let name_of = |item: &Value| item["path"].as_str().expect("a path").to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut files = Vec::new();
    for item in list(&volume["downwardAPI"]["items"]) {
        let path = item["fieldRef"]["fieldPath"].as_str().expect("a field");
        files.push((name_of(&item), field(pod, path)));
    }
    for source in list(&volume["projected"]["sources"]) {
        let token = &source["serviceAccountToken"];
        assert!(token.is_object(), "projected: {source}");
        let audience = token["audience"].as_str();
        files.push((name_of(token), bound_token(api, pod, audience)));
    }
    if let Some(name) = volume["configMap"]["name"].as_str() {
        let (map, _) = until(name, std::time::Duration::from_secs(20), || {
            let map = api.get("configmap", namespace, name);
            (!map.is_null()).then_some(map)
        });
        for (file, content) in map["data"].as_object().into_iter().flatten() {
            files.push((
                file.clone(),
                content.as_str().unwrap_or_default().to_owned(),
            ));
        }
    }
    let empty = volume["emptyDir"].is_object();
    assert!(empty || !files.is_empty(), "volume {volume}");
    files
}

/// A token as it is projected into the pod: of its service account, and good for as long as it exists.
fn bound_token(api: &ApiServer, pod: &Value, audience: Option<&str>) -> String {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut args = vec![
        "create".to_owned(),
        "token".to_owned(),
        text(&pod["spec"]["serviceAccountName"]),
        "--namespace".to_owned(),
        text(&pod["metadata"]["namespace"]),
        "--bound-object-kind=Pod".to_owned(),
        format!("--bound-object-name={}", text(&pod["metadata"]["name"])),
    ];
    args.extend(audience.map(|audience| format!("--audience={audience}")));
    api.run(&args).trim().to_owned()
}

/// A field of the pod, as the downward API writes it.
fn field(pod: &Value, path: &str) -> String {
    let pointer = format!("/{}", path.replace('.', "/"));
    match pod.pointer(&pointer) {
        Some(Value::Object(map)) => {
            let line = |(name, value): (&String, &Value)| format!("{name}={value}");
            map.iter().map(line).collect::<Vec<_>>().join("\n")
        }
        Some(Value::String(text)) => text.clone(),
        Some(_) | None => String::new(),
    }
}

/// A limit of the container in whole units; one that it has not is what a node would have.
fn resource_field(container: &Value, resource: &str) -> String {
    let limit = resource
        .split('.')
        .fold(&container["resources"], |value, part| &value[part]);
    match (resource, limit.as_str()) {
        ("limits.cpu", Some(text)) => match text.strip_suffix('m') {
            Some(milli) => milli
                .parse::<u64>()
                .expect("a number")
                .div_ceil(1000)
                .to_string(),
            None => text.to_owned(),
        },
        ("limits.cpu", None) => "1".to_owned(),
        ("limits.memory", Some(text)) => {
            let (number, unit) = match text.strip_suffix("Gi") {
                Some(number) => (number, 1 << 30),
                None => (text.strip_suffix("Mi").expect("Mi or Gi"), 1 << 20),
            };
            (number.parse::<u64>().expect("a number") * unit).to_string()
        }
        ("limits.memory", None) => (1_u64 << 30).to_string(),
        _ => panic!("resourceFieldRef {resource}"),
    }
}

/// `$(NAME)` replaced by what was set before.
fn expanded(text: &str, env: &[(String, String)]) -> String {
    env.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("$({name})"), value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_given_what_its_pod_says() {
        let pod = json!({
            "metadata": {"name": "w-1", "namespace": "shop", "labels": {"a": "b", "c": "d"}},
            "spec": {"serviceAccountName": "w", "containers": [{
                "args": ["proxy", "--domain", "$(NS).svc.cluster.local"],
                "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}},
                "env": [
                    {"name": "NS", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                    {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "PLAIN", "value": "in $(NS)"},
                ],
            }]},
        });
        let Container { args, env } = Container::of(&pod);
        assert_eq!(args, ["proxy", "--domain", "shop.svc.cluster.local"]);
        let env: Vec<(&str, &str)> = env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let want = [
            ("NS", "shop"),
            ("CPU", "2"),
            ("MEMORY", "1073741824"),
            ("NODE", ""),
            ("PLAIN", "in shop"),
        ];
        assert_eq!(env, want);
        assert_eq!(field(&pod, "metadata.labels"), "a=\"b\"\nc=\"d\"");
    }
}
