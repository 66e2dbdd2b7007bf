//! On a whole Kubernetes with a node: the project's own image in pods. The tests of this program share one cluster.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "tests")]

mod bookinfo;
mod waypoint;

use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::time::Duration;

use waymark_testkit::kubernetes::Cluster;

/// The image of the program under test.
const IMAGE: &str = "waymark.dev/waymark:test";
/// How long something may take on a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(60);

/// The cluster, with the image of the program under test.
fn cluster() -> Option<&'static Cluster> {
    static IMPORTED: Once = Once::new();
    let cluster = Cluster::shared()?;
    IMPORTED.call_once(|| {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("waymark.tar");
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/image/build");
        let mut build = Command::new(recipe);
        build.args(["--binary", env!("CARGO_BIN_EXE_waymark"), "--name", IMAGE]);
        let output = build.arg("--out").arg(&archive).output().unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{why}");
        cluster.import(&archive);
    });
    Some(cluster)
}
