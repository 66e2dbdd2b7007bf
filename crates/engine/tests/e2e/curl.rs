//! curl, with prior knowledge.

use std::process::{Command, Output};

use waymark_engine::h2::Config;

use crate::{echo, server};

/// Runs curl; `None` when there is none that speaks HTTP/2.
fn curl(arguments: &[&str]) -> Option<Output> {
    let version = Command::new("curl").arg("--version").output();
    let speaks = version.is_ok_and(|v| String::from_utf8_lossy(&v.stdout).contains("HTTP2"));
    if !speaks {
        crate::skip("there is no curl with HTTP/2");
        return None;
    }
    let output = Command::new("curl")
        .args([
            "--http2-prior-knowledge",
            "--silent",
            "--show-error",
            "--max-time",
            "60",
        ])
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(output)
}

#[test]
fn curl_gets_a_greeting() {
    let address = server::start(Config::default());
    let Some(output) = curl(&["--include", &format!("http://{address}/")]) else {
        return;
    };
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(answer.starts_with("HTTP/2 200"), "{answer}");
    assert!(
        answer.ends_with(str::from_utf8(echo::GREETING).unwrap()),
        "{answer}"
    );
}

#[test]
fn curl_gets_back_what_it_uploads_through_small_windows() {
    let address = server::start(Config {
        stream_window_bytes: 30_000,
        connection_window_bytes: 70_000,
        output_bytes: 20_000,
        ..Config::default()
    });
    let body: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
    let file = std::env::temp_dir().join(format!("waymark-engine-upload-{}", std::process::id()));
    std::fs::write(&file, &body).unwrap();
    let data = format!("@{}", file.display());
    let url = format!("http://{address}/echo");
    let output = curl(&["--data-binary", &data, &url]);
    std::fs::remove_file(&file).unwrap();
    if let Some(output) = output {
        assert!(
            output.stdout == body,
            "{} of {} bytes",
            output.stdout.len(),
            body.len()
        );
    }
}
