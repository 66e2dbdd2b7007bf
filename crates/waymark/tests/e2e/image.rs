//! The container image: `deploy/image/build` makes one of this program that runs with nothing else around it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::waymark;

#[test]
fn the_image_is_the_same_each_time_and_all_the_program_needs() {
    let directory = tempfile::tempdir().unwrap();
    let (archive, again) = (
        directory.path().join("one.tar"),
        directory.path().join("two.tar"),
    );
    build(&archive);
    build(&again);
    assert_eq!(sha256(&archive), sha256(&again));

    let layout = directory.path().join("layout");
    unpack(&archive, &layout);
    let index = json(&layout.join("index.json"));
    let descriptor = &index["manifests"][0];
    let names = &descriptor["annotations"];
    assert_eq!(names["io.containerd.image.name"], NAME);
    assert_eq!(names["org.opencontainers.image.ref.name"], NAME);
    let manifest = json(&blob(&layout, descriptor));
    let config = json(&blob(&layout, &manifest["config"]));
    let layer = blob(&layout, &manifest["layers"][0]);
    assert_eq!(
        config["rootfs"]["diff_ids"][0],
        manifest["layers"][0]["digest"]
    );
    assert_eq!(config["config"]["User"], "1337:1337");

    let root = directory.path().join("root");
    unpack(&layer, &root);
    let entrypoint = config["config"]["Entrypoint"][0].as_str().unwrap();
    // In a user namespace, so that it takes no rights to enter the image.
    let mut program = Command::new("unshare");
    program
        .args(["--user", "--map-root-user", "chroot"])
        .args([root.as_os_str(), entrypoint.as_ref(), "--version".as_ref()])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let said = run(&mut program);
    assert_eq!(
        String::from_utf8_lossy(&said.stdout).trim(),
        concat!("waymark ", env!("CARGO_PKG_VERSION"))
    );
}

fn build(archive: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/image/build");
    run(Command::new(script)
        .arg("--binary")
        .arg(waymark())
        .args(["--name", NAME, "--out"])
        .arg(archive));
}

/// The file of a blob, whose digest and size are as described.
fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().unwrap();
    let digest = digest.strip_prefix("sha256:").unwrap();
    let file = layout.join("blobs/sha256").join(digest);
    assert_eq!(sha256(&file), digest);
    assert_eq!(fs::metadata(&file).unwrap().len(), descriptor["size"]);
    file
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn unpack(archive: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    run(Command::new("tar")
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(to));
}

fn sha256(file: &Path) -> String {
    let said = run(Command::new("sha256sum").arg(file));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    said.split_whitespace().next().unwrap().to_owned()
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {why}");
    output
}

const NAME: &str = "waymark.dev/waymark:test";
