//! A data directory and the `tombolo serve` process over it.

use crate::command::{binary, run, tombolo};
use crate::s3::{Client, Request};
use crate::signature::Credentials;
use crate::wait;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use tempfile::TempDir;

/// A segment's directory with one tenant, `Test/lab`, and one user of known keys. Gone when dropped.
pub struct Site {
    root: PathBuf,
    _temporary: Option<TempDir>,
}

/// The running server of a [`Site`]; killed when dropped.
pub struct Server {
    child: Child,
    /// Where S3 is served.
    pub address: SocketAddr,
    log: PathBuf,
}

impl Site {
    /// The tenant.
    pub const TENANT: &str = "Test/lab";

    /// A new segment in a temporary directory.
    pub fn new() -> Site {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let site = Site { root: temporary.path().to_path_buf(), _temporary: Some(temporary) };
        site.set_up();
        site
    }

    /// A new segment below `root`, which stays.
    pub fn below(root: &Path) -> Site {
        let site = Site { root: root.to_path_buf(), _temporary: None };
        site.set_up();
        site
    }

    fn set_up(&self) {
        let keys = Site::credentials();
        self.tombolo(&["init", "--segment", "test", "--cluster", "Test"]);
        self.tombolo(&["tenant", "create", Site::TENANT]);
        self.tombolo(&[
            "user",
            "create",
            Site::TENANT,
            "tester",
            "--access-key",
            &keys.access_key,
            "--secret-key",
            &keys.secret_key,
        ]);
    }

    /// The data directory.
    pub fn dir(&self) -> PathBuf {
        self.root.join("data")
    }

    /// A place beside the data directory for what clients need.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.root.join("scratch").join(name);
        std::fs::create_dir_all(&path).expect("a scratch directory");
        path
    }

    /// The keys of the tenant's one user.
    pub fn credentials() -> Credentials {
        Credentials {
            access_key: "TESTACCESSKEY0000001".into(),
            secret_key: "test-secret-key-of-forty-characters-0001".into(),
        }
    }

    /// `tombolo ARGS --dir DIR`, not run yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = tombolo(args);
        command.arg("--dir").arg(self.dir());
        command
    }

    /// Runs `tombolo ARGS --dir DIR`; gives its output, panics if it fails.
    pub fn tombolo(&self, args: &[&str]) -> String {
        run(&mut self.command(args)).success()
    }

    /// Starts the server and waits until it answers.
    pub fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    /// The same, with more arguments for `tombolo serve`.
    pub fn serve_with(&self, arguments: &[&str]) -> Server {
        Server::start_with(&self.dir(), &self.root.join("serve.log"), arguments)
    }
}

impl Default for Site {
    fn default() -> Self {
        Site::new()
    }
}

/// A port nobody listens on just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
    listener.local_addr().expect("its number").port()
}

/// The value of a figure with its labels, `NAME{LABELS}`, as the server at this admin address says it; `None`: it is not there.
pub fn metric(admin: SocketAddr, figure: &str) -> Option<f64> {
    let nobody = Credentials { access_key: "none".into(), secret_key: "none".into() };
    let request = Request { method: "GET", path: b"/metrics", ..Request::default() };
    let text = Client::new(admin, nobody).send(&request).expect("metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(' '));
    line.map(|value| value.parse().expect("a number"))
}

impl Server {
    /// Starts `tombolo serve` over `dir` and waits until it answers. Its output goes to the end of `log`.
    pub fn start(dir: &Path, log: &Path) -> Server {
        Server::start_with(dir, log, &[])
    }

    /// The same, with more arguments.
    pub fn start_with(dir: &Path, log: &Path, arguments: &[&str]) -> Server {
        // Somebody else may take the port between looking and binding: then once more.
        for _ in 0..5 {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            let output = File::options().create(true).append(true).open(log).expect("the server's log");
            let errors = output.try_clone().expect("the server's log");
            let mut command = Command::new(binary("tombolo"));
            command.arg("serve").arg("--dir").arg(dir).arg("--s3").arg(address.to_string()).env_remove("TOMBOLO_DIR");
            command.args(arguments);
            let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().expect("tombolo starts");
            let mut server = Server { child, address, log: log.to_path_buf() };
            let ended = wait::until("the server to answer", || match server.child.try_wait().expect("its state") {
                Some(status) => Some(Some(status)),
                None => TcpStream::connect(address).is_ok().then_some(None),
            });
            match ended {
                None => return server,
                Some(_) if server.log().contains("in use") => {}
                Some(status) => panic!("the server ended with {status}\n{}", server.log()),
            }
        }
        panic!("no port stayed free for long enough");
    }

    /// `http://ADDRESS`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client with the keys of the [`Site`].
    pub fn client(&self) -> Client {
        Client::new(self.address, Site::credentials())
    }

    /// What the server printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Process id.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a power cut would end its process: SIGKILL.
    pub fn kill(mut self) {
        self.kill_process();
    }

    /// Ends it as an operator would: SIGTERM. Panics unless it ends with 0.
    pub fn stop(mut self) {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("SIGTERM is sent");
        let status = wait::until("the server to stop", || self.child.try_wait().expect("its state"));
        assert!(status.success(), "the server ended with {status}\n{}", self.log());
    }

    /// Kills it in place, for callers that share it.
    pub fn kill_process(&mut self) -> ExitStatus {
        self.child.kill().expect("SIGKILL is sent");
        self.child.wait().expect("the server ends")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is fine; so is a failure here, as there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
