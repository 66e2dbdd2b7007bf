//! The status writer, told by a mesh that the test makes up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use tokio::sync::watch;
use waymark_api::ObjectRef;
use waymark_api::waypoint::WaypointClass;
use waymark_kubernetes::deployer::Verdicts;
use waymark_kubernetes::status::{
    Condition, MeshStatus, ParentStatus, RouteStatus, ServiceFinding, StatusKey, StatusKind,
    WriterOptions, write,
};
use waymark_rt::{SystemClock, Task};
use waymark_testkit::kubernetes::ApiServer;

use super::{client, until};

/// What the mesh knows, as the test says.
#[derive(Debug, Default)]
struct Mesh {
    changes: watch::Sender<u64>,
    facts: Mutex<Facts>,
}

#[derive(Debug, Clone, Default)]
struct Facts {
    services: BTreeMap<String, ServiceFinding>,
    conditions: BTreeMap<StatusKey, Vec<Condition>>,
    routes: BTreeMap<StatusKey, RouteStatus>,
    refused: BTreeMap<ObjectRef, String>,
}

impl Mesh {
    fn set(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock().unwrap());
        self.changes.send_modify(|count| *count += 1);
    }
}

impl MeshStatus for Mesh {
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn service(&self, host: &str, _port: u16) -> ServiceFinding {
        let facts = self.facts.lock().unwrap();
        facts
            .services
            .get(host)
            .cloned()
            .unwrap_or(ServiceFinding::NotFound)
    }

    fn conditions(&self) -> Vec<(StatusKey, Vec<Condition>)> {
        self.facts
            .lock()
            .unwrap()
            .conditions
            .clone()
            .into_iter()
            .collect()
    }

    fn routes(&self) -> Vec<(StatusKey, RouteStatus)> {
        self.facts
            .lock()
            .unwrap()
            .routes
            .clone()
            .into_iter()
            .collect()
    }

    fn refused(&self) -> Vec<(ObjectRef, String)> {
        self.facts
            .lock()
            .unwrap()
            .refused
            .clone()
            .into_iter()
            .collect()
    }
}

/// A writer knows of the whole cluster, and takes away what its mesh does not say: there is one at a time.
static ONE_WRITER: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Writer {
    mesh: Arc<Mesh>,
    verdicts: watch::Sender<Arc<Verdicts>>,
    _task: Task<()>,
}

async fn writer(api: &ApiServer) -> Writer {
    let mesh = Arc::new(Mesh::default());
    let (verdicts, watched) = watch::channel(Arc::default());
    let client = client(&api.kubeconfig()).await;
    let options = WriterOptions {
        classes: WaypointClass::ALL.to_vec(),
        cluster_domain: "cluster.local".to_owned(),
        route_controller: "istio.io/gateway-controller".to_owned(),
        instance: "test".to_owned(),
    };
    let told = mesh.clone();
    let run = write(client, options, told, watched, Arc::new(SystemClock));
    Writer {
        mesh,
        verdicts,
        _task: waymark_rt::spawn("status", run),
    }
}

fn condition<'a>(object: &'a Value, of: &str) -> &'a Value {
    object["status"]["conditions"]
        .as_array()
        .and_then(|conditions| conditions.iter().find(|c| c["type"] == of))
        .unwrap_or(&Value::Null)
}

async fn has(
    api: &ApiServer,
    kind: &str,
    namespace: &str,
    name: &str,
    of: &str,
    reason: &str,
) -> Value {
    until(&format!("{kind} {name}: {of} {reason}"), || {
        let object = api.get(kind, namespace, name);
        (condition(&object, of)["reason"] == reason).then_some(object)
    })
    .await
}

fn version(object: &Value) -> &Value {
    &object["metadata"]["resourceVersion"]
}

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: w, namespace: NAMESPACE }\n\
    spec: { gatewayClassName: istio-waypoint, listeners: [{ name: mesh, port: 15008, protocol: HBONE }] }\n";

#[tokio::test(flavor = "multi_thread")]
async fn gateways_and_classes_say_how_they_are() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let _alone = ONE_WRITER.lock().await;
    let namespace = api.namespace();
    api.apply(&GATEWAY.replace("NAMESPACE", &namespace));
    let before = api.get("gateway", &namespace, "w");
    let writer = writer(api).await;
    for (class, controller) in [
        ("istio-waypoint", "istio.io/mesh-controller"),
        ("waymark-waypoint", "waymark.dev/mesh-controller"),
    ] {
        let class = has(api, "gatewayclass", "", class, "Accepted", "Accepted").await;
        assert_eq!(class["spec"]["controllerName"], controller);
        assert_eq!(
            condition(&class, "Accepted")["message"],
            "Handled by Istio controller"
        );
    }
    // One that nobody has taken is not ours to tell about.
    assert_eq!(
        version(&api.get("gateway", &namespace, "w")),
        version(&before)
    );

    let key = (namespace.clone(), "w".to_owned());
    writer
        .verdicts
        .send_replace(Arc::new(BTreeMap::from([(key, None)])));
    let gateway = has(
        api,
        "gateway",
        &namespace,
        "w",
        "Programmed",
        "AddressNotUsable",
    )
    .await;
    assert_eq!(condition(&gateway, "Accepted")["status"], "True");
    assert_eq!(condition(&gateway, "Programmed")["observedGeneration"], 1);

    let host = format!("w.{namespace}.svc.cluster.local");
    let ready = ServiceFinding::Ready {
        vips: vec!["10.96.0.9".parse().unwrap()],
    };
    writer
        .mesh
        .set(|facts| drop(facts.services.insert(host.clone(), ready)));
    let gateway = has(api, "gateway", &namespace, "w", "Programmed", "Programmed").await;
    assert_eq!(
        gateway["status"]["addresses"],
        json!([{"type": "IPAddress", "value": "10.96.0.9"}, {"type": "Hostname", "value": host}])
    );
    let listener = &gateway["status"]["listeners"][0];
    assert_eq!(
        (&listener["name"], &listener["attachedRoutes"]),
        (&json!("mesh"), &json!(0))
    );

    // Without endpoints it is not programmed, and keeps its addresses.
    writer.mesh.set(|facts| {
        drop(
            facts
                .services
                .insert(host.clone(), ServiceFinding::NoEndpoints),
        )
    });
    let idle = has(
        api,
        "gateway",
        &namespace,
        "w",
        "Programmed",
        "AddressNotAssigned",
    )
    .await;
    assert_eq!(idle["status"]["addresses"], gateway["status"]["addresses"]);

    // Another writer that knows the same writes nothing: neither a change of leader nor time makes a difference.
    drop(writer);
    let second = self::writer(api).await;
    second.mesh.set(|facts| {
        facts
            .services
            .insert(host.clone(), ServiceFinding::NoEndpoints);
    });
    let keys = [
        (namespace.clone(), "w".to_owned()),
        (namespace.clone(), "v".to_owned()),
    ];
    second
        .verdicts
        .send_replace(Arc::new(keys.into_iter().map(|key| (key, None)).collect()));
    api.apply(
        &GATEWAY
            .replace("NAMESPACE", &namespace)
            .replace("name: w", "name: v"),
    );
    has(
        api,
        "gateway",
        &namespace,
        "v",
        "Programmed",
        "AddressNotUsable",
    )
    .await;
    assert_eq!(
        version(&api.get("gateway", &namespace, "w")),
        version(&idle)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_are_told_released_and_announced() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let _alone = ONE_WRITER.lock().await;
    let namespace = api.namespace();
    api.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: s, namespace: {namespace} }}\nspec: {{ ports: [{{ port: 80 }}] }}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: e, namespace: {namespace} }}\nspec: {{ hosts: [a.example], ports: [{{ number: 80, name: http, protocol: HTTP }}], resolution: DNS }}\n"
    ));
    for kind in ["service", "serviceentry"] {
        let name = if kind == "service" { "s" } else { "e" };
        let theirs = json!({"status": {"conditions": [{"type": "theirs", "status": "True", "reason": "r", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        api.run(&[
            "patch",
            kind,
            name,
            "--namespace",
            &namespace,
            "--subresource=status",
            "--type=merge",
            "--patch",
            &theirs.to_string(),
        ]);
    }
    let writer = writer(api).await;
    let service = StatusKey::new(StatusKind::Service, &namespace, "s");
    let entry = StatusKey::new(StatusKind::ServiceEntry, &namespace, "e");
    let denied = || {
        vec![Condition::no(
            "istio.io/WaypointBound",
            "AttachmentDenied",
            "not permitted",
        )]
    };
    let bound = || {
        vec![Condition::yes(
            "istio.io/WaypointBound",
            "WaypointAccepted",
            "attached",
        )]
    };
    writer.mesh.set(|facts| {
        facts.conditions = BTreeMap::from([(service.clone(), denied()), (entry.clone(), bound())]);
    });
    let told = has(
        api,
        "service",
        &namespace,
        "s",
        "istio.io/WaypointBound",
        "AttachmentDenied",
    )
    .await;
    assert_eq!(condition(&told, "theirs")["status"], "True");
    let told = has(
        api,
        "serviceentry",
        &namespace,
        "e",
        "istio.io/WaypointBound",
        "WaypointAccepted",
    )
    .await;
    assert_eq!(condition(&told, "theirs")["status"], "True");
    assert_eq!(
        condition(&told, "istio.io/WaypointBound")["observedGeneration"],
        "1"
    );
    until("event", || {
        let events = api.run(&["get", "events", "--namespace", &namespace, "-o", "json"]);
        (events.contains("AttachmentDenied") && !events.contains("WaypointAccepted")).then_some(())
    })
    .await;

    writer.mesh.set(|facts| facts.conditions.clear());
    for (kind, name) in [("service", "s"), ("serviceentry", "e")] {
        until("release", || {
            let object = api.get(kind, &namespace, name);
            let released = condition(&object, "istio.io/WaypointBound").is_null();
            (released && condition(&object, "theirs")["status"] == "True").then_some(())
        })
        .await;
    }

    let refused = ObjectRef {
        group: "networking.istio.io".to_owned(),
        kind: "ServiceEntry".to_owned(),
        namespace: Some(namespace.clone()),
        name: "e".to_owned(),
    };
    writer.mesh.set(|facts| {
        drop(
            facts
                .refused
                .insert(refused, "spec.hosts: is wrong".to_owned()),
        )
    });
    until("event of a refusal", || {
        let said = api.run(&["describe", "serviceentry", "e", "--namespace", &namespace]);
        said.contains("spec.hosts: is wrong").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_have_an_entry_a_parent_beside_those_of_others() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let _alone = ONE_WRITER.lock().await;
    let namespace = api.namespace();
    api.apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r, namespace: {namespace} }}\n\
         spec: {{ parentRefs: [{{ group: '', kind: Service, name: reviews, port: 9080 }}] }}\n"
    ));
    let theirs = json!({"status": {"parents": [{"controllerName": "example.org/other", "parentRef": {"name": "ingress"},
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}]}});
    api.run(&[
        "patch",
        "httproute",
        "r",
        "--namespace",
        &namespace,
        "--subresource=status",
        "--type=merge",
        "--patch",
        &theirs.to_string(),
    ]);
    let writer = writer(api).await;
    let key = StatusKey::new(StatusKind::HttpRoute, &namespace, "r");
    let status = RouteStatus::Read {
        generation: Some(1),
        parents: vec![ParentStatus {
            conditions: vec![
                Condition::yes("Accepted", "Accepted", "Route was valid"),
                Condition::no("ResolvedRefs", "BackendNotFound", "backend(x) not found"),
            ],
        }],
    };
    writer
        .mesh
        .set(|facts| drop(facts.routes.insert(key.clone(), status)));
    let parents = |object: &Value| {
        object["status"]["parents"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let route = until("entry", || {
        let route = api.get("httproute", &namespace, "r");
        (parents(&route).len() == 2).then_some(route)
    })
    .await;
    let ours = &parents(&route)[1];
    assert_eq!(ours["controllerName"], "istio.io/gateway-controller");
    assert_eq!(ours["parentRef"], route["spec"]["parentRefs"][0]);
    assert_eq!(ours["conditions"][1]["reason"], "BackendNotFound");

    writer.mesh.set(|facts| drop(facts.routes.remove(&key)));
    until("end of the entry", || {
        let route = api.get("httproute", &namespace, "r");
        (parents(&route).len() == 1).then_some(())
    })
    .await;
}

/// Of each of some routes: all have a note of their own to add, some an entry in its status, and ours is told anew all the time.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_conflicting_writers_and_ours_lose_nothing() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let _alone = ONE_WRITER.lock().await;
    let namespace = api.namespace();
    let manifests: String = (0..ROUTES)
        .map(|n| ROUTE.replace("NUMBER", &n.to_string()))
        .collect();
    api.apply(&manifests.replace("NAMESPACE", &namespace));
    let writer = writer(api).await;
    let tell = |route: usize, message: &str| {
        let key = StatusKey::new(StatusKind::HttpRoute, &namespace, format!("r{route}"));
        let status = RouteStatus::Read {
            generation: Some(1),
            parents: vec![ParentStatus {
                conditions: vec![Condition::yes("Accepted", "Accepted", message)],
            }],
        };
        writer
            .mesh
            .set(|facts| drop(facts.routes.insert(key, status)));
    };
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    let resource = ApiResource::from_gvk_with_plural(&kind, "httproutes");
    let client = client(&api.kubeconfig()).await;
    let routes: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &resource);
    let mut others = tokio::task::JoinSet::new();
    for i in 0..WRITERS {
        let (routes, route) = (routes.clone(), i % ROUTES);
        others.spawn(async move {
            let name = format!("r{route}");
            if i / ROUTES < ENTRIES {
                let controller = format!("example.org/other-{i}");
                edit(&routes, &name, |route| add_entry(route, &controller)).await;
            } else {
                let note = format!("note-{i}");
                edit(&routes, &name, |route| {
                    let notes = route.metadata.annotations.get_or_insert_default();
                    notes.insert(note.clone(), "there".to_owned());
                    Edited::Object
                })
                .await;
            }
            route
        });
    }
    let mut told = [0; ROUTES];
    while let Some(route) = others.join_next().await {
        let route = route.unwrap();
        told[route] += 1;
        tell(
            route,
            &format!("Route was valid, the {}th time", told[route]),
        );
    }
    let each = WRITERS / ROUTES;
    assert_eq!(told, [each; ROUTES]);
    let last = format!("Route was valid, the {each}th time");
    for n in 0..ROUTES {
        let route = until("the last word", || {
            let route = api.get("httproute", &namespace, &format!("r{n}"));
            let parents = route["status"]["parents"].as_array()?;
            let ours = parents
                .iter()
                .find(|parent| parent["controllerName"] == "istio.io/gateway-controller")?;
            (ours["conditions"][0]["message"] == *last).then_some(route.clone())
        })
        .await;
        let notes = route["metadata"]["annotations"].as_object().unwrap();
        assert_eq!(notes.len(), each - ENTRIES);
        let parents = route["status"]["parents"].as_array().unwrap();
        let controllers: std::collections::BTreeSet<&str> = parents
            .iter()
            .map(|parent| parent["controllerName"].as_str().unwrap())
            .collect();
        assert_eq!(
            (controllers.len(), parents.len()),
            (ENTRIES + 1, ENTRIES + 1),
            "none is lost and none is there twice"
        );
    }
}

/// What of an object was edited.
enum Edited {
    Object,
    Status,
}

/// As a controller does it: reads, changes, and begins anew when it was not alone.
async fn edit(
    routes: &Api<DynamicObject>,
    name: &str,
    change: impl Fn(&mut DynamicObject) -> Edited,
) {
    loop {
        let mut route = routes.get(name).await.unwrap();
        let params = PostParams::default();
        let written = match change(&mut route) {
            Edited::Object => routes.replace(name, &params, &route).await,
            Edited::Status => routes.replace_status(name, &params, &route).await,
        };
        match written {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn add_entry(route: &mut DynamicObject, controller: &str) -> Edited {
    let entry = json!({
        "controllerName": controller, "parentRef": {"name": "ingress"},
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    });
    match route.data["status"]["parents"].as_array_mut() {
        Some(parents) => parents.push(entry),
        None => route.data["status"] = json!({"parents": [entry]}),
    }
    Edited::Status
}

const WRITERS: usize = 500;
const ROUTES: usize = 50;
/// Writers of a route that have an entry in its status.
const ENTRIES: usize = 4;

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: rNUMBER, namespace: NAMESPACE }
spec: { parentRefs: [{ group: '', kind: Service, name: reviews, port: 9080 }] }
---
";
