use std::time::SystemTime;

use waymark_api::yaml::parse_documents;

use super::*;
use crate::facts::{Platform, ReplicaSource, Settings};
use crate::fixture::{MESH, objects};
use crate::index::Mesh;
use crate::ipam::Ipam;
use crate::translate::input::MeshSettings;

fn core() -> Core {
    let settings = Settings {
        cluster_id: "Kubernetes".to_owned(),
        node_name: "local".into(),
        replicas: ReplicaSource::Gateway,
        platform: Platform::Directory,
    };
    let generator = Generator::new(MeshSettings::default());
    Core::new(
        Facts::new(settings, Ipam::in_memory()),
        Index::new(Mesh::default()),
        generator,
        Arc::default(),
    )
}

fn batch(changes: Vec<Change>) -> Batch {
    Batch {
        changes,
        errors: Vec::new(),
        places: BTreeMap::new(),
    }
}

fn put(text: &str) -> Batch {
    batch(objects(text).into_iter().map(Change::Upsert).collect())
}

fn service(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {address}, ports: [{{port: 80}}]}}\n"
    )
}

fn services(core: &Core) -> Vec<String> {
    core.read(|inner| {
        inner
            .index
            .services()
            .map(|service| service.name.to_string())
            .collect()
    })
}

#[test]
fn nobody_is_served_before_the_first_look_at_the_source() {
    let core = core();
    assert!(core.open_node().is_none() && core.desired().borrow().is_none());
    core.take(batch(Vec::new()));
    assert!(core.open_node().is_some() && core.desired().borrow().is_some());
}

#[test]
fn an_address_that_another_has_is_refused_and_tried_again() {
    let core = core();
    core.take(put(&service("a", "127.96.5.5")));
    core.take(put(&service("b", "127.96.5.5")));
    assert_eq!(services(&core), ["a"]);
    let errors = core.read(Inner::document_errors);
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].field.as_deref(), Some("spec.clusterIP"));
    assert!(
        errors[0]
            .message
            .contains("already belongs to Service/default/a"),
        "{}",
        errors[0]
    );
    core.take(batch(vec![Change::Delete(ObjectKey::namespaced(
        waymark_api::Kind::Service,
        "default",
        "a",
    ))]));
    assert_eq!(services(&core), ["b"]);
    assert!(core.read(Inner::document_errors).is_empty());
}

#[test]
fn an_address_that_a_manifest_names_is_taken_before_others_are_allocated() {
    let core = core();
    let unset = service("a", "127.96.0.1").replace("clusterIP: 127.96.0.1, ", "");
    core.take(put(&format!("{unset}---\n{}", service("b", "127.96.0.1"))));
    let vips: Vec<String> = core.read(|inner| {
        inner
            .index
            .services()
            .map(|service| format!("{} {}", service.name, service.vips[0].addr()))
            .collect()
    });
    assert_eq!(vips, ["a 127.96.0.2", "b 127.96.0.1"]);
}

#[test]
fn a_refused_new_version_leaves_the_old_one_in_force() {
    let core = core();
    core.take(put(&format!(
        "{}---\n{}",
        service("a", "127.96.5.5"),
        service("b", "127.96.5.6")
    )));
    core.take(put(&service("b", "127.96.5.5")));
    let address = core.read(|inner| {
        inner
            .index
            .services()
            .nth(1)
            .map(|service| service.vips[0].addr().to_string())
    });
    assert_eq!(address.as_deref(), Some("127.96.5.6"));
    // And its old address is still its own.
    core.take(put(&service("c", "127.96.5.6")));
    assert_eq!(services(&core), ["a", "b"]);
}

const WAYPOINT: &str = "Kubernetes//Pod/default/waypoint-0";

fn states(phase: Phase, pid: u32) -> Arc<ReplicaStates> {
    let key = ReplicaKey {
        namespace: "default".to_owned(),
        deployment: "waypoint".to_owned(),
        index: 0,
    };
    let state = ReplicaState {
        phase,
        since: SystemTime::UNIX_EPOCH,
        pid: Some(pid),
        restarts: 0,
        refused: None,
    };
    Arc::new([(key, state)].into())
}

fn is_healthy(core: &Core) -> bool {
    core.read(|inner| {
        inner.index.workloads().any(|workload| {
            workload.uid.as_str() == WAYPOINT
                && workload.health == crate::index::workload::Health::Healthy
        })
    })
}

#[test]
fn a_replica_is_as_its_deployer_says() {
    let core = core();
    core.take(put(MESH));
    for (phase, healthy) in [
        (Phase::Starting, false),
        (Phase::Ready, true),
        (Phase::Starting, false),
    ] {
        core.replicas(states(phase.clone(), 7));
        assert_eq!(is_healthy(&core), healthy, "{phase:?}");
    }
}

#[test]
fn a_replica_that_was_ready_stays_so_over_a_restart_while_its_process_is_the_same() {
    let remembering = || {
        let core = core();
        core.remember([(
            WaypointKey::new("default", "waypoint"),
            "waypoint-0".into(),
            7,
        )]);
        core.take(put(MESH));
        core.replicas(Arc::default());
        assert!(is_healthy(&core));
        core
    };
    let core = remembering();
    core.replicas(states(Phase::Starting, 7));
    assert!(is_healthy(&core), "adopted, not asked yet");
    core.replicas(states(Phase::Ready, 7));
    core.replicas(states(Phase::Starting, 7));
    assert!(!is_healthy(&core), "asked, and no longer ready");

    let core = remembering();
    core.replicas(states(Phase::Starting, 8));
    assert!(!is_healthy(&core), "another process");

    let core = remembering();
    core.forget_remembered();
    assert!(!is_healthy(&core), "nobody said anything in time");
}

#[test]
fn errors_of_documents_are_shown() {
    let core = core();
    let errors = parse_documents("x.yaml", "kind: [")
        .into_iter()
        .filter_map(Result::err)
        .collect();
    core.take(Batch {
        changes: Vec::new(),
        errors,
        places: BTreeMap::new(),
    });
    assert_eq!(core.read(|inner| inner.document_errors().len()), 1);
}
