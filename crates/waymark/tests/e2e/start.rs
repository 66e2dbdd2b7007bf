//! Starting and ending: what can go wrong is said, and nothing is left.

use std::net::TcpListener;
use std::process::Output;

use waymark_testkit::mesh::{command, processes_of};
use waymark_testkit::netns::isolated;

use crate::waymark;

fn up(state: &std::path::Path, args: &[&str]) -> Output {
    command(waymark(), state)
        .arg("up")
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn a_detached_mesh_runs_until_down() {
    isolated(|| {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let output = up(&state, &["--detach"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        assert!(text.contains("/productpage"), "{text}");
        let again = up(&state, &[]);
        assert_eq!(again.status.code(), Some(1));
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(
            said.contains("already running") && said.contains("Hint:"),
            "{said}"
        );
        let down = command(waymark(), &state).arg("down").output().unwrap();
        assert!(down.status.success(), "{down:?}");
        assert_eq!(processes_of(&state), [""; 0]);
        let again = command(waymark(), &state).arg("down").output().unwrap();
        assert!(
            String::from_utf8_lossy(&again.stdout).contains("no mesh is running"),
            "{again:?}"
        );
    });
}

#[test]
fn what_prevents_a_start_is_said_once_and_nothing_is_half_started() {
    isolated(|| {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");

        let missing = up(&state, &["/no/such/directory"]);
        expect(&missing, &["/no/such/directory", "Hint:"], &state);

        let broken = dir.path().join("broken");
        std::fs::create_dir(&broken).unwrap();
        std::fs::write(broken.join("a.yaml"), "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\nspec:\n  ports:\n  - port: 99999\n").unwrap();
        let output = up(&state, &[broken.to_str().unwrap()]);
        expect(
            &output,
            &["a.yaml", "Service", "spec.ports[0].port", "99999", "Hint:"],
            &state,
        );

        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let output = up(&file, &[]);
        expect(&output, &["state directory", "Hint:"], &state);

        // The first VIP of the mesh is taken.
        let _taken = TcpListener::bind("0.0.0.0:9080").unwrap();
        let output = up(&state, &[]);
        expect(&output, &["in use", "9080"], &state);
    });
}

fn expect(output: &Output, wants: &[&str], state: &std::path::Path) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for want in wants {
        assert!(text.contains(want), "{want} is not in:\n{text}");
    }
    assert_eq!(processes_of(state), [""; 0]);
}
