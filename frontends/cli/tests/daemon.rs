//! The daemon: how it starts, who may talk to it, how it ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test panics when something is not as it must be"
)]

mod site;

use site::{BUCKET, Daemon, Site, command};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn commands_go_through_the_daemon() {
    let site = Site::new();
    assert_eq!(site.json(&["status"])["daemon"], serde_json::Value::Null);
    let mut daemon = Daemon::start(&site.dir(), &[]);
    assert_eq!(site.json(&["status"])["daemon"]["pid"], daemon.id());
    site.put("k", "through the daemon");
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), 0);
    assert!(!site.dir().join("control.sock").exists());
    assert_eq!(site.get("k"), "through the daemon");
}

#[test]
fn both_signals_end_it_with_0() {
    for signal in ["TERM", "INT"] {
        let site = Site::new();
        let mut daemon = Daemon::start(&site.dir(), &[]);
        daemon.signal(signal);
        assert_eq!(daemon.wait(), 0, "{signal}");
        assert_eq!(daemon.rest(), "");
    }
}

#[test]
fn work_under_way_is_finished() {
    let site = Site::new();
    let mut daemon = Daemon::start(&site.dir(), &[]);
    let mut put = site
        .command(&["put", "-", &format!("{BUCKET}/slow")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = put.stdin.take().unwrap();
    // More than all buffers on the way hold: once it is written, the daemon has begun.
    let piece = vec![0x5a; 1 << 20];
    for _ in 0..16 {
        stdin.write_all(&piece).unwrap();
    }
    daemon.signal("TERM");
    stdin.write_all(&piece).unwrap();
    drop(stdin);
    let output = put.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(daemon.wait(), 0);
    assert_eq!(site.json(&["stat", &format!("{BUCKET}/slow")])["size"], 17 << 20);
}

#[test]
fn a_deadline_and_a_second_signal_cut_work_off() {
    for second in [false, true] {
        let site = Site::new();
        let limit = if second { "1h" } else { "0" };
        let mut daemon = Daemon::start(&site.dir(), &["--shutdown-timeout", limit]);
        let mut put = site
            .command(&["put", "-", &format!("{BUCKET}/never")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = put.stdin.take().unwrap();
        stdin.write_all(&vec![0x5a; 16 << 20]).unwrap();
        daemon.signal("TERM");
        if second {
            // The first has been taken when the daemon refuses new work.
            let deadline = Instant::now() + Duration::from_secs(60);
            while UnixStream::connect(site.dir().join("control.sock")).is_ok() {
                assert!(Instant::now() < deadline, "the daemon takes new work after SIGTERM");
                std::thread::yield_now();
            }
            daemon.signal("TERM");
        }
        assert_eq!(daemon.wait(), i32::from(second));
        drop(stdin);
        assert!(!put.wait_with_output().unwrap().status.success());
        site.run(&["stat", &format!("{BUCKET}/never")]).fails(3, "never");
    }
}

#[test]
fn a_killed_daemon_is_in_nobodys_way() {
    let site = Site::new();
    let mut daemon = Daemon::start(&site.dir(), &[]);
    site.put("k", "kept");
    daemon.signal("KILL");
    assert_eq!(daemon.wait(), -1);
    assert!(site.dir().join("control.sock").exists());
    assert_eq!(site.get("k"), "kept");
    let again = Daemon::start(&site.dir(), &[]);
    assert_eq!(site.json(&["status"])["daemon"]["pid"], again.id());
}

#[test]
fn a_directory_has_one_daemon() {
    let site = Site::new();
    let first = Daemon::start(&site.dir(), &[]);
    let refused = Daemon::try_start(&site.dir(), &["--admin", "127.0.0.1:0"]).err().unwrap();
    assert!(refused.contains(&first.id().to_string()), "{refused}");
    assert!(refused.contains("exit status: 1"), "{refused}");
}

#[test]
fn commands_wait_for_one_another() {
    let site = Site::new();
    let mut children: Vec<_> = (0..6)
        .map(|number| {
            site.command(&["put", site.file(&format!("f{number}"), b"x").to_str().unwrap(), BUCKET])
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children.drain(..) {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(site.keys(BUCKET).len(), 6);
}

#[test]
fn the_socket_is_its_owners() {
    let site = Site::new();
    let daemon = Daemon::start(&site.dir(), &[]);
    let mode = std::fs::metadata(site.dir().join("control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(daemon);
}

#[test]
fn a_long_path_is_no_obstacle() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(dir.parent().unwrap()).unwrap();
    let init = command(&dir, &["init", "--segment", "test"]).output().unwrap();
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    let daemon = Daemon::start(&dir, &[]);
    let output = command(&dir, &["status", "--json"]).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["daemon"]["pid"], daemon.id());
}

#[test]
fn strange_bytes_on_the_socket_harm_nobody() {
    let site = Site::new();
    let daemon = Daemon::start(&site.dir(), &[]);
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 100],
        &[1, 4, 0, 0, 0, 9, 9, 9, 9],
        &[1, 4, 0, 0, 0, 1, 0, 0, 0, 2, 255, 255, 255, 255],
        b"\x01",
    ] {
        let mut stream = UnixStream::connect(site.dir().join("control.sock")).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // It answers with a refusal or not at all, and closes.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 1000);
    }
    assert_eq!(site.json(&["status"])["daemon"]["pid"], daemon.id());
}

#[test]
fn health_and_metrics() {
    let site = Site::new();
    site.put("k", "12345");
    let daemon = Daemon::start(&site.dir(), &[]);
    assert_eq!(daemon.said["name"], "test");
    assert_eq!(daemon.said["s3"], serde_json::Value::Null);
    for (request, status) in [
        ("GET /healthz", "HTTP/1.1 200 OK"),
        ("GET /readyz", "HTTP/1.1 200 OK"),
        ("HEAD /healthz", "HTTP/1.1 200 OK"),
        ("GET /else", "HTTP/1.1 404 Not Found"),
        ("POST /healthz", "HTTP/1.1 405 Method Not Allowed"),
    ] {
        assert_eq!(daemon.http(request).0, status, "{request}");
    }
    let (status, body) = daemon.http("GET /metrics");
    assert_eq!(status, "HTTP/1.1 200 OK");
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("tombolo_") || name.starts_with("process_"), "{line}");
        value.parse::<f64>().unwrap();
    }
    assert!(body.contains(&format!("tombolo_bucket_bytes{{bucket=\"{BUCKET}\"}} 5")), "{body}");
    assert!(body.contains("\ntombolo_segment_full 0"), "{body}");
}

#[test]
fn serve_makes_what_is_not_there() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("new/data");
    let mut daemon = Daemon::start(&dir, &["--segment", "island", "--cluster", "Sea"]);
    assert_eq!(daemon.said["name"], "island");
    assert_eq!(daemon.said["cluster"], "Sea");
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), 0);
}

#[test]
fn without_a_segment_there_is_a_next_step() {
    let root = tempfile::tempdir().unwrap();
    let output = command(&root.path().join("none"), &["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("tombolo init"));
}

/// A command that is killed takes its half-written object with it, and the daemon goes on.
#[test]
fn a_killed_command_leaves_nothing_behind() {
    let site = Site::new();
    let mut daemon = Daemon::start(&site.dir(), &[]);
    let mut put = site
        .command(&["put", "-", &format!("{BUCKET}/half")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = put.stdin.take().unwrap();
    stdin.write_all(&vec![0x5a; 16 << 20]).unwrap();
    put.kill().unwrap();
    put.wait().unwrap();
    site.run(&["stat", &format!("{BUCKET}/half")]).fails(3, "half");
    // Nothing is under way any more: it ends long before its deadline of an hour would.
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), 0);
    assert_eq!(site.keys(BUCKET), [""; 0]);
}

#[test]
fn garbage_is_collected_without_being_asked() {
    let site = Site::new();
    let _daemon = Daemon::start(&site.dir(), &["--gc-interval", "1s"]);
    // Not what compresses to nothing: it must be in packs.
    let content: Vec<u8> = (0..4u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    site.feed(&["put", "-", &format!("{BUCKET}/large")], &content).ok();
    assert!(site.json(&["status"])["chunks"].as_u64().unwrap() > 0);
    site.run(&["rm", &format!("{BUCKET}/large")]).ok();
    let deadline = Instant::now() + Duration::from_secs(120);
    while site.json(&["status"])["chunks"] != 0 {
        assert!(Instant::now() < deadline, "{}", site.json(&["status"]));
    }
}
