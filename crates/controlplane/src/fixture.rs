//! Meshes for tests, out of manifests.

use waymark_api::Resource;
use waymark_api::yaml::parse_documents;

use crate::facts::{Facts, Platform, ReplicaSource, Settings};
use crate::index::effects::Effects;
use crate::index::{Index, Mesh};
use crate::ipam::Ipam;

/// A small mesh: a namespace with a waypoint that requires to be passed, a service of two versions, and another namespace.
pub(crate) const MESH: &str = include_str!("testdata/mesh.yaml");
/// Its routes: 90 to 10.
pub(crate) const ROUTES: &str = include_str!("testdata/routes.yaml");

/// Facts and an index of them.
pub(crate) struct Fixture {
    pub(crate) facts: Facts,
    pub(crate) index: Index,
}

impl Fixture {
    /// What the manifests come to.
    pub(crate) fn new(manifests: &[&str]) -> Self {
        let settings = Settings {
            cluster_id: "Kubernetes".to_owned(),
            node_name: "local".into(),
            replicas: ReplicaSource::Gateway,
            platform: Platform::Directory,
        };
        let mut fixture = Self {
            facts: Facts::new(settings, Ipam::in_memory()),
            index: Index::new(Mesh::default()),
        };
        for text in manifests {
            fixture.put(text);
        }
        fixture
    }

    /// Takes in documents, in their order.
    pub(crate) fn put(&mut self, text: &str) -> Effects {
        let mut facts = Vec::new();
        for object in objects(text) {
            facts.extend(
                self.facts
                    .upsert(object)
                    .expect("it can be had beside the others"),
            );
        }
        self.index.apply(facts)
    }
}

/// The objects of valid manifests.
pub(crate) fn objects(text: &str) -> Vec<Resource> {
    parse_documents("fixture.yaml", text)
        .into_iter()
        .map(|document| document.unwrap_or_else(|error| panic!("{error}")).resource)
        .collect()
}
