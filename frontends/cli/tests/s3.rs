//! `serve` with the S3 door: the first start's keys, and that they are shown once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test panics when something is not as it must be"
)]

mod site;

use site::{Daemon, command};
use std::io::{Read, Write};
use std::net::TcpStream;

#[test]
fn the_first_start_prints_keys_once() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    let mut daemon = Daemon::try_start(&dir, &["--s3", "127.0.0.1:0"]).unwrap();
    let credentials = &daemon.said["credentials"];
    let (access, secret) = (credentials["access_key"].as_str().unwrap(), credentials["secret_key"].as_str().unwrap());
    assert!(access.len() >= 10 && secret.len() >= 20);
    let tenant = credentials["tenant"].as_str().unwrap();
    let listed = command(&dir, &["user", "list", tenant, "--json"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains(access) && !listed.contains(secret));

    let address = daemon.said["s3"].as_str().unwrap().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");

    daemon.signal("TERM");
    assert_eq!(daemon.wait(), 0);
    let again = Daemon::try_start(&dir, &["--s3", "127.0.0.1:0"]).unwrap();
    assert_eq!(again.said["credentials"], serde_json::Value::Null);
}

#[test]
fn the_first_start_prints_lines_to_paste() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    let mut child = command(&dir, &["serve", "--s3", "127.0.0.1:0"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut printed = Vec::new();
    for line in lines.by_ref() {
        let line = line.unwrap();
        let is_last = line.starts_with("aws s3 ls");
        printed.push(line);
        if is_last {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let text = printed.join("\n");
    for words in [
        "export AWS_ACCESS_KEY_ID=",
        "export AWS_SECRET_ACCESS_KEY=",
        "export AWS_ENDPOINT_URL=http://127.0.0.1:",
        "aws s3 mb ",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}
