//! Clients that people use: nghttp2's `nghttp` and `h2load`, and curl.

use std::path::Path;
use std::process::{Command, Output};

use crate::server::{GREETING, Protocol, start};

/// Runs a client; `None` when it is not installed.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
            Some(output)
        }
        Err(error) => {
            crate::skip(&format!("{program}: {error}"));
            None
        }
    }
}

/// A file with a body that is no repetition of anything short, for as long as the test runs.
fn upload(directory: &Path, bytes: u32) -> (String, Vec<u8>) {
    let body: Vec<u8> = (0..bytes).map(|i| (i / 7) as u8).collect();
    let file = directory.join("upload");
    std::fs::write(&file, &body).unwrap();
    (file.to_str().unwrap().to_owned(), body)
}

#[test]
fn nghttp_gets_a_greeting_for_each_of_its_streams() {
    let address = start(Protocol::Http2);
    let urls: Vec<_> = (0..20).map(|n| format!("http://{address}/{n}")).collect();
    let mut arguments = vec!["--no-dep", "--window-bits=10"];
    arguments.extend(urls.iter().map(String::as_str));
    if let Some(output) = run("nghttp", &arguments) {
        assert_eq!(output.stdout, GREETING.repeat(20));
    }
}

#[test]
fn nghttp_gets_back_what_it_uploads_through_small_windows() {
    let address = start(Protocol::Http2);
    let directory = tempfile::tempdir().unwrap();
    let (file, body) = upload(directory.path(), 3_000_000);
    let (data, url) = (format!("--data={file}"), format!("http://{address}/echo"));
    let windows = ["--window-bits=12", "--connection-window-bits=14"];
    if let Some(output) = run("nghttp", &[windows[0], windows[1], &data, &url]) {
        let got = output.stdout.len();
        assert!(output.stdout == body, "{got} of {} bytes", body.len());
    }
}

/// Every request of `h2load` is answered with a 2xx; it says itself how many were.
fn all_answered(arguments: &[&str]) {
    if let Some(output) = run("h2load", arguments) {
        let report = String::from_utf8_lossy(&output.stdout);
        let all = "requests: 4000 total, 4000 started, 4000 done, 4000 succeeded, 0 failed, 0 errored, 0 timeout";
        assert!(report.contains(all), "{report}");
        assert!(report.contains("status codes: 4000 2xx"), "{report}");
    }
}

#[test]
fn h2load_has_every_request_answered_on_many_streams() {
    let address = start(Protocol::Http2);
    let directory = tempfile::tempdir().unwrap();
    let (file, _) = upload(directory.path(), 2_000);
    let (url, data) = (format!("http://{address}/echo"), format!("--data={file}"));
    let load = [
        "--requests=4000",
        "--clients=4",
        "--max-concurrent-streams=100",
    ];
    all_answered(&[load[0], load[1], load[2], &url]);
    all_answered(&[load[0], load[1], load[2], &data, &url]);
}

#[test]
fn h2load_has_every_request_answered_on_kept_http1_connections() {
    let address = start(Protocol::Http1);
    let url = format!("http://{address}/");
    all_answered(&["--requests=4000", "--clients=4", "--h1", &url]);
}

#[test]
fn curl_speaks_http1_with_and_without_framing_of_its_own() {
    let address = start(Protocol::Http1);
    let directory = tempfile::tempdir().unwrap();
    let (file, body) = upload(directory.path(), 3_000_000);
    let (data, url) = (format!("@{file}"), format!("http://{address}/echo"));
    let quiet = [
        "--silent",
        "--show-error",
        "--max-time",
        "60",
        "--data-binary",
        &data,
    ];
    for header in [
        "expect: 100-continue",
        "transfer-encoding: chunked",
        "connection: close",
    ] {
        let mut arguments = quiet.to_vec();
        arguments.extend(["--header", header, &url]);
        let Some(output) = run("curl", &arguments) else {
            return;
        };
        let got = output.stdout.len();
        assert!(output.stdout == body, "{header}: {got} bytes");
    }
    // Two requests on one connection.
    let told = ["--silent", "--write-out", "%{num_connects} ", &url, &url];
    if let Some(output) = run("curl", &told) {
        assert_eq!(String::from_utf8_lossy(&output.stdout), "1 0 ");
    }
}
