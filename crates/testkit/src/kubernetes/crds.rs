//! Which custom resource definitions an API server has.

use std::fs;
use std::path::PathBuf;

use super::programs::module;
use crate::cache;

const GATEWAY_API: &str = "sigs.k8s.io/gateway-api@v1.5.0";
const ISTIO: &str = "istio.io/api@v1.31.4";

/// Custom resource definitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Crds {
    /// None.
    #[default]
    None,
    /// Istio's, and Gateway API's of the standard channel.
    UpstreamStandard,
    /// Istio's, and Gateway API's of the experimental channel.
    UpstreamExperimental,
}

impl Crds {
    /// Their files; `None` where they cannot be had, which is said on stderr.
    ///
    /// # Panics
    /// When they cannot be had and `CI=true`.
    pub(super) fn find(self) -> Option<Vec<PathBuf>> {
        match UpstreamCrds::find() {
            Ok(crds) => Some(crds.files(self)),
            Err(_) if self == Self::None => Some(Vec::new()),
            Err(why) => {
                cache::missing("upstream's CRDs", &why);
                None
            }
        }
    }
}

/// Upstream's custom resource definitions, as files in the Go module cache.
#[derive(Clone, Debug)]
pub struct UpstreamCrds {
    /// Gateway API v1.5.0, standard channel.
    pub gateway_standard: Vec<PathBuf>,
    /// Gateway API v1.5.0, experimental channel.
    pub gateway_experimental: Vec<PathBuf>,
    /// Istio 1.31, all in one file; or the file that `$WAYMARK_TEST_CRDS` names, for a run with other definitions.
    pub istio: PathBuf,
}

impl UpstreamCrds {
    /// Finds them, downloading the modules when they are not there.
    ///
    /// # Errors
    /// A sentence, when they cannot be had.
    pub fn find() -> Result<Self, String> {
        let gateway = module(GATEWAY_API)?.join("config/crd");
        let channel = |name: &str| -> Result<Vec<PathBuf>, String> {
            let directory = gateway.join(name);
            let entries =
                fs::read_dir(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
            let mut files: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                // Not the list of them, and not the policy that keeps channels apart.
                .filter(|path| {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    name.starts_with("gateway.networking") && !name.contains("_vap_")
                })
                .collect();
            files.sort();
            Ok(files)
        };
        Ok(Self {
            gateway_standard: channel("standard")?,
            gateway_experimental: channel("experimental")?,
            istio: match std::env::var_os("WAYMARK_TEST_CRDS") {
                Some(given) => given.into(),
                None => module(ISTIO)?.join("kubernetes/customresourcedefinitions.gen.yaml"),
            },
        })
    }

    /// The files of a choice.
    #[must_use]
    pub fn files(&self, crds: Crds) -> Vec<PathBuf> {
        let gateway = match crds {
            Crds::None => return Vec::new(),
            Crds::UpstreamStandard => &self.gateway_standard,
            Crds::UpstreamExperimental => &self.gateway_experimental,
        };
        gateway.iter().chain([&self.istio]).cloned().collect()
    }
}
