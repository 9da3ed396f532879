//! A data directory and the `tombolo` binary on it, with or without a daemon in between.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test panics when something is not as it must be"
)]
#![allow(dead_code, unreachable_pub, reason = "a module of several test programs, each of which uses a part of it")]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// Bucket that every site has.
pub const BUCKET: &str = "Test/lab/box";

/// A directory with a segment, its daemon if there is one, and room for files.
pub struct Site {
    root: tempfile::TempDir,
    daemon: Option<Daemon>,
}

/// What a command left.
pub struct Ran {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
    line: String,
}

impl Ran {
    fn new(line: String, output: Output) -> Ran {
        let code = output.status.code().unwrap_or(-1);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Ran { code, stdout: output.stdout, stderr, line }
    }

    /// Standard output; panics unless the command ended with 0.
    pub fn ok(self) -> Vec<u8> {
        assert_eq!(self.code, 0, "{} ended with {}: {}", self.line, self.code, self.stderr);
        self.stdout
    }

    /// Standard output as text.
    pub fn text(self) -> String {
        String::from_utf8(self.ok()).unwrap()
    }

    /// Standard output as JSON.
    pub fn json(self) -> Value {
        let line = self.line.clone();
        let stdout = self.ok();
        serde_json::from_slice(&stdout).unwrap_or_else(|e| panic!("{line}: {e}: {}", String::from_utf8_lossy(&stdout)))
    }

    /// Panics unless the command ended with `code` and said something that contains `words`.
    pub fn fails(self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{} ended with {}: {}", self.line, self.code, self.stderr);
        assert!(self.stderr.contains(words), "{}: '{words}' is not in: {}", self.line, self.stderr);
    }
}

impl Site {
    /// A new segment without a daemon, with a tenant and a bucket.
    pub fn new() -> Site {
        let site = Site { root: tempfile::tempdir().unwrap(), daemon: None };
        site.run(&["init", "--segment", "test", "--cluster", "Test"]).ok();
        site.run(&["tenant", "create", "Test/lab"]).ok();
        site.run(&["bucket", "create", BUCKET]).ok();
        site
    }

    /// A new segment with a daemon.
    pub fn with_daemon() -> Site {
        let mut site = Site::new();
        site.daemon = Some(Daemon::start(&site.dir(), &[]));
        site
    }

    /// The data directory.
    pub fn dir(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// A place for files of a test.
    pub fn place(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A file with a content.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.place(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The command line, not run yet.
    pub fn command(&self, args: &[&str]) -> Command {
        command(&self.dir(), args)
    }

    /// Runs a command line.
    pub fn run(&self, args: &[&str]) -> Ran {
        let output = self.command(args).stdin(Stdio::null()).output().unwrap();
        Ran::new(args.join(" "), output)
    }

    /// Runs a command line with `--json`.
    pub fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--json"]].concat()).json()
    }

    /// Runs a command line with something on standard input.
    pub fn feed(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A command that fails early does not read all of it.
        let writer = std::thread::spawn(move || stdin.write_all(&input).is_ok());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Ran::new(args.join(" "), output)
    }

    /// Stores text under a key of the bucket.
    pub fn put(&self, key: &str, content: &str) {
        self.feed(&["put", "-", &format!("{BUCKET}/{key}")], content.as_bytes()).ok();
    }

    /// The content under a key of the bucket.
    pub fn get(&self, key: &str) -> String {
        self.run(&["get", &format!("{BUCKET}/{key}"), "-"]).text()
    }

    /// Keys below a path, in order.
    pub fn keys(&self, path: &str) -> Vec<String> {
        let listed = self.json(&["ls", "-r", path]);
        listed.as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap().to_string()).collect()
    }
}

/// Runs `test` on a site without a daemon, then on one with.
pub fn both_ways(test: impl Fn(&Site)) {
    test(&Site::new());
    test(&Site::with_daemon());
}

/// `tombolo ARGS --dir DIR`, not run yet.
pub fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tombolo"));
    command.args(args).arg("--dir").arg(dir);
    for name in ["TOMBOLO_DIR", "TOMBOLO_LOG", "TOMBOLO_SECRET_KEY"] {
        command.env_remove(name);
    }
    command
}

/// A running `tombolo serve`; killed when dropped.
pub struct Daemon {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// What it said when it was ready.
    pub said: Value,
}

impl Daemon {
    /// Starts one with an admin address and waits until it is ready.
    pub fn start(dir: &Path, args: &[&str]) -> Daemon {
        Daemon::try_start(dir, &[&["--admin", "127.0.0.1:0"], args].concat()).expect("the daemon starts")
    }

    /// Starts one; what it said on standard error if it ends instead of serving.
    pub fn try_start(dir: &Path, args: &[&str]) -> Result<Daemon, String> {
        let mut child = command(dir, &[&["serve", "--json"], args].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            let status = child.wait().unwrap();
            return Err(format!("{status}: {text}"));
        }
        // Its log must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Ok(Daemon { child, stdout, said: serde_json::from_str(&line).unwrap() })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end; gives the exit code (-1 for a signal).
    pub fn wait(&mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// What else it prints, up to its end.
    pub fn rest(&mut self) -> String {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        text
    }

    /// One HTTP request to the admin address; status line and body.
    pub fn http(&self, request: &str) -> (String, String) {
        let url = self.said["admin"].as_str().unwrap();
        let mut stream = std::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_string(), body.to_string())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
