//! A site whose server may be linked to others: one bucket, served over S3 and links.

use crate::command::{Finished, binary, run, tombolo};
use crate::network::Host;
use crate::s3::Client;
use crate::server::metric;
use crate::signature::Credentials;
use crate::wait;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A segment in a temporary directory, with its server while that runs. Killed and gone when dropped.
pub struct LinkedSite {
    root: TempDir,
    server: Option<Child>,
    said: Value,
    host: Option<Host>,
}

impl LinkedSite {
    /// A new segment of this name and cluster; nothing serves it yet.
    pub fn new(name: &str, cluster: &str) -> LinkedSite {
        let root = tempfile::tempdir().expect("a temporary directory");
        let site = LinkedSite { root, server: None, said: Value::Null, host: None };
        site.tombolo(&["init", "--segment", name, "--cluster", cluster]);
        site
    }

    /// From now on its server runs on this host, and serves S3 and metrics on the host's address.
    pub fn on(mut self, host: &Host) -> LinkedSite {
        self.host = Some(host.clone());
        self
    }

    /// A place beside the data directory.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The data directory.
    pub fn dir(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// Starts the server, listening for links on a port of its own, and waits until it serves.
    pub fn serve(&mut self) {
        self.serve_with(&["--link", "127.0.0.1:0"]);
    }

    /// The same, with these arguments instead of `--link`.
    pub fn serve_with(&mut self, arguments: &[&str]) {
        let log = File::options().create(true).append(true).open(self.root.path().join("log")).expect("a log");
        let mut command = match &self.host {
            None => self.command(&["serve", "--json", "--s3", "127.0.0.1:0", "--admin", "127.0.0.1:0"]),
            Some(host) => {
                // The program takes the place of `nsenter`: who kills the one kills the other.
                let mut inside = Command::new("nsenter");
                inside.arg(format!("--net=/run/netns/{}", host.namespace)).arg("--").arg(binary("tombolo"));
                let address = format!("{}:0", host.address);
                inside.args(["serve", "--json", "--s3", &address, "--admin", &address]).arg("--dir").arg(self.dir());
                inside
            }
        };
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut server = command.spawn().expect("tombolo starts");
        let mut line = String::new();
        let output = server.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("what it says");
        self.server = Some(server);
        self.said = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}\n{}", self.log()));
    }

    /// What the server logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }

    /// What the server said when it was ready.
    pub fn said(&self) -> &Value {
        &self.said
    }

    /// Ends the server as a power cut would end its process.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("SIGKILL is sent");
            server.wait().expect("the server ends");
        }
    }

    /// Ends the server as an operator would; panics unless it ends with 0.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let process = rustix::process::Pid::from_child(&server);
            rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("SIGTERM is sent");
            let status = wait::until("the server to stop", || server.try_wait().expect("its state"));
            assert!(status.success(), "the server ended with {status}\n{}", self.log());
        }
    }

    /// `tombolo ARGS --dir DIR`, not run yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = tombolo(args);
        command.arg("--dir").arg(self.dir());
        command
    }

    /// Runs a command; panics unless it ends with 0.
    pub fn tombolo(&self, args: &[&str]) -> String {
        run(&mut self.command(args)).success()
    }

    /// Runs a command, however it ends.
    pub fn run(&self, args: &[&str]) -> Finished {
        run(&mut self.command(args))
    }

    /// Runs a command with `--json`.
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.tombolo(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// Makes a user of `SanFrancisco/lab`, with the same keys at every site.
    pub fn user(&self) -> Credentials {
        let (access, secret) = ("SITEKEY0000000000001", "a-secret-of-both-sites");
        let keys = ["--access-key", access, "--secret-key", secret];
        self.tombolo(&[&["user", "create", "SanFrancisco/lab", "tester"][..], &keys].concat());
        Credentials { access_key: access.into(), secret_key: secret.into() }
    }

    /// Stores `content` under a path.
    pub fn put(&self, path: &str, content: &[u8]) {
        let file = self.root.path().join("content");
        std::fs::write(&file, content).expect("the file is written");
        self.tombolo(&["put", file.to_str().expect("a plain path"), path]);
    }

    /// What is stored under a path.
    pub fn get(&self, path: &str) -> Vec<u8> {
        let file = self.root.path().join("fetched");
        self.tombolo(&["get", path, file.to_str().expect("a plain path")]);
        std::fs::read(&file).expect("the file is read")
    }

    /// Keys below a path, in order.
    pub fn keys(&self, path: &str) -> Vec<String> {
        let listed = self.json(&["ls", "-r", path]);
        let items = listed.as_array().expect("an array");
        items.iter().map(|item| item["key"].as_str().expect("a key").to_owned()).collect()
    }

    /// Waits until all that the linked segments have is here.
    pub fn catch_up(&self) {
        self.tombolo(&["sync", "wait", "--timeout", "120s"]);
    }

    /// An S3 client of the running server.
    pub fn s3(&self, credentials: Credentials) -> Client {
        let url = self.said["s3"].as_str().expect("where S3 is served");
        let address: SocketAddr = url.strip_prefix("http://").expect("a URL").parse().expect("an address");
        Client::new(address, credentials)
    }

    /// The value of a figure with these labels, `NAME{LABELS}`; `None`: it is not there.
    pub fn metric(&self, figure: &str) -> Option<f64> {
        let url = self.said["admin"].as_str().expect("where metrics are served");
        let address = url.strip_prefix("http://").expect("a URL").parse().expect("an address");
        metric(address, figure)
    }
}

impl Drop for LinkedSite {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            // Already gone is fine; there is nobody left to tell of anything else.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Two serving sites, `sanfrancisco` and `newyork`, the second linked to the first with `accept` as further arguments. The first has the bucket
/// [`BUCKET`], which the second has, too, when this returns.
pub fn pair(accept: &[&str]) -> (LinkedSite, LinkedSite) {
    let mut sanfrancisco = LinkedSite::new("sanfrancisco", "SanFrancisco");
    let mut newyork = LinkedSite::new("newyork", "NewYork");
    sanfrancisco.tombolo(&["tenant", "create", "SanFrancisco/lab"]);
    sanfrancisco.tombolo(&["bucket", "create", BUCKET]);
    sanfrancisco.serve();
    newyork.serve();
    let invite = sanfrancisco.json(&["link", "invite"]);
    let code = invite["code"].as_str().expect("a code");
    newyork.tombolo(&[&["link", "accept", code], accept].concat());
    newyork.catch_up();
    (sanfrancisco, newyork)
}

/// The bucket of [`pair`].
pub const BUCKET: &str = "SanFrancisco/lab/data";

/// Bytes that neither compress nor repeat.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(next).collect()
}
