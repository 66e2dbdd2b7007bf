//! What can be set of an installation, and the objects that come of it.

use serde_json::Value;
use waymark_api::yaml::parse_value;

/// What is set. Names are the chart's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    /// Where the control plane is.
    pub namespace: String,
    /// Its revision; empty for the default one.
    pub revision: String,
    image_repository: String,
    image_tag: String,
    pull_policy: String,
    replicas: u32,
    trust_domain: String,
    cluster_id: String,
    node: bool,
}

/// Why a value cannot be set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ValuesError {
    /// It is not written as one.
    #[error("{0:?} is no NAME=VALUE")]
    Shape(String),
    /// There is none of that name.
    #[error("no value {0:?} can be set here (there are: {known}; for all others use the Helm chart)", known = KNOWN.join(", "))]
    Unknown(String),
    /// It cannot be that.
    #[error("{name} cannot be {value:?}: must be {wanted}")]
    Invalid {
        /// The value's name.
        name: String,
        /// What it was to be.
        value: String,
        /// What it can be.
        wanted: &'static str,
    },
}

impl Values {
    /// The chart's defaults.
    ///
    /// # Errors
    /// When namespace or revision is no name.
    pub fn new(namespace: &str, revision: &str) -> Result<Self, ValuesError> {
        // `default` is what the one without a name is called.
        let revision = if revision == "default" { "" } else { revision };
        if !is_label(namespace) {
            return Err(invalid("namespace", namespace, NAME));
        }
        if !(revision.is_empty() || is_label(revision) && revision.len() <= 40) {
            return Err(invalid("revision", revision, NAME));
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            revision: revision.to_owned(),
            image_repository: "waymark.dev/waymark".to_owned(),
            image_tag: env!("CARGO_PKG_VERSION").to_owned(),
            pull_policy: "IfNotPresent".to_owned(),
            replicas: 2,
            trust_domain: "cluster.local".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            node: false,
        })
    }

    /// Sets one, written as `NAME=VALUE`.
    ///
    /// # Errors
    /// See [`ValuesError`].
    pub fn set(&mut self, setting: &str) -> Result<(), ValuesError> {
        let (name, value) = setting
            .split_once('=')
            .ok_or_else(|| ValuesError::Shape(setting.to_owned()))?;
        let plain = |field: &mut String| {
            // It is put into a text: nothing that could end the place where it is.
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
            if value.is_empty() || !value.chars().all(fits) {
                return Err(invalid(name, value, "letters, digits and any of -_./:@"));
            }
            value.clone_into(field);
            Ok(())
        };
        match name {
            "image.repository" => plain(&mut self.image_repository)?,
            "image.tag" => plain(&mut self.image_tag)?,
            "mesh.trustDomain" => plain(&mut self.trust_domain)?,
            "mesh.clusterID" => plain(&mut self.cluster_id)?,
            "image.pullPolicy" if ["Always", "IfNotPresent", "Never"].contains(&value) => {
                value.clone_into(&mut self.pull_policy);
            }
            "image.pullPolicy" => {
                return Err(invalid(name, value, "Always, IfNotPresent or Never"));
            }
            "controlPlane.replicas" => {
                self.replicas = value
                    .parse()
                    .map_err(|_| invalid(name, value, "a number"))?;
            }
            "node.enabled" => {
                self.node = value
                    .parse()
                    .map_err(|_| invalid(name, value, "true or false"))?;
            }
            _ => return Err(ValuesError::Unknown(name.to_owned())),
        }
        Ok(())
    }

    /// The revision as labels have it.
    pub fn revision_name(&self) -> &str {
        if self.revision.is_empty() {
            "default"
        } else {
            &self.revision
        }
    }

    /// The objects, in the order in which they are applied.
    ///
    /// # Panics
    /// When what is built in is no YAML, which a test rules out.
    pub fn objects(&self) -> Vec<Value> {
        let suffix = if self.revision.is_empty() {
            String::new()
        } else {
            format!("-{}", self.revision)
        };
        let text = RENDERED
            .replace("-waymark-revision", &suffix)
            .replace("waymark-revision", self.revision_name())
            .replace("waymark-namespace", &self.namespace)
            .replace("waymark-image", &self.image_repository)
            .replace("waymark-tag", &self.image_tag)
            .replace("waymark-trust-domain", &self.trust_domain)
            .replace("waymark-cluster-id", &self.cluster_id)
            .replace("IfNotPresent", &self.pull_policy)
            .replace("managed-by: Helm", "managed-by: waymark");
        let mut objects: Vec<Value> = text
            .split("\n---\n")
            .map(|document| parse_value(document).expect("what is built in is YAML"))
            .filter(|object| !object.is_null() && self.is_wanted(object))
            .collect();
        for object in &mut objects {
            if object["kind"] == "Deployment" {
                object["spec"]["replicas"] = self.replicas.into();
            }
        }
        objects
    }

    fn is_wanted(&self, object: &Value) -> bool {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match object["kind"].as_str() {
            // It would hold up every drain.
            Some("PodDisruptionBudget") => self.replicas > 1,
            Some("DaemonSet" | "ServiceAccount") if name.starts_with("waymark-node") => self.node,
            _ => true,
        }
    }
}

fn invalid(name: &str, value: &str, wanted: &'static str) -> ValuesError {
    ValuesError::Invalid {
        name: name.to_owned(),
        value: value.to_owned(),
        wanted,
    }
}

/// A name of RFC 1123.
fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len())
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

const NAME: &str = "lower-case letters, digits and hyphens between them";

const KNOWN: &[&str] = &[
    "image.repository",
    "image.tag",
    "image.pullPolicy",
    "controlPlane.replicas",
    "mesh.trustDomain",
    "mesh.clusterID",
    "node.enabled",
];

/// The chart, rendered by `deploy/render` with words where values go.
const RENDERED: &str = include_str!("../../../../deploy/manifests/install.yaml");

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn names(values: &Values) -> Vec<String> {
        let text = |object: &Value| {
            let name = object["metadata"]["name"].as_str().unwrap();
            format!("{} {name}", object["kind"].as_str().unwrap())
        };
        values.objects().iter().map(text).collect()
    }

    #[test]
    fn no_word_is_left_in_the_place_of_a_value() {
        for revision in ["", "canary"] {
            let mut values = Values::new("mesh", revision).unwrap();
            values.set("node.enabled=true").unwrap();
            let text = serde_json::to_string(&values.objects()).unwrap();
            for word in [
                "waymark-revision",
                "waymark-namespace",
                "waymark-image",
                "waymark-tag",
                "waymark-trust-domain",
                "waymark-cluster-id",
                "Helm",
            ] {
                assert!(!text.contains(word), "{word}");
            }
        }
    }

    #[test]
    fn a_revision_is_in_every_name() {
        let default = names(&Values::new("mesh", "default").unwrap());
        assert!(default.contains(&"Deployment istiod".to_owned()));
        assert!(default.contains(&"ClusterRole waymark-controlplane-mesh".to_owned()));
        let canary = names(&Values::new("mesh", "canary").unwrap());
        assert!(
            canary.iter().all(|name| name.contains("-canary")),
            "{canary:?}"
        );
    }

    #[test]
    fn values_reach_the_objects() {
        let mut values = Values::new("mesh", "").unwrap();
        for setting in [
            "image.repository=localhost:5000/waymark",
            "image.tag=2",
            "image.pullPolicy=Never",
            "controlPlane.replicas=1",
            "mesh.trustDomain=example.org",
        ] {
            values.set(setting).unwrap();
        }
        let objects = values.objects();
        let deployment = objects.iter().find(|o| o["kind"] == "Deployment").unwrap();
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(deployment["spec"]["replicas"], 1);
        assert_eq!(container["image"], "localhost:5000/waymark:2");
        assert_eq!(container["imagePullPolicy"], "Never");
        let environment = container["env"].to_string();
        assert!(environment.contains("example.org"));
        assert!(environment.contains("istiod.mesh.svc:15012"));
        assert!(objects.iter().all(|o| o["kind"] != "PodDisruptionBudget"));
    }

    #[test]
    fn what_cannot_be_set_says_so() {
        let mut values = Values::new("mesh", "").unwrap();
        for (setting, wanted) in [
            ("image.tag", "is no NAME=VALUE"),
            ("controlPlane.env=a", "Helm chart"),
            ("controlPlane.replicas=two", "must be a number"),
            ("image.tag=a\"b", "letters, digits"),
        ] {
            let error = values.set(setting).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(Values::new("Mesh", "").is_err());
        assert!(Values::new("mesh", "-a").is_err());
    }
}
