//! A site whose server has a bucket mounted.

use crate::server::{Server, Site};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The bucket that is mounted.
pub const BUCKET: &str = "bucket";
/// Names and attributes are kept for a day: what another door changes is seen in time only if the kernel is told.
pub const KEPT: &str = "entry_timeout=86400,attr_timeout=86400";

/// A running server with a mount. Unmounted and killed when dropped.
pub struct Mounted {
    /// The server.
    pub server: Option<Server>,
    point: PathBuf,
    options: String,
    arguments: Vec<String>,
}

impl Mounted {
    /// Makes the bucket if it is not there and serves it over S3 and a mount with `options`.
    pub fn start(site: &Site, options: &str) -> Mounted {
        Mounted::start_with(site, options, &[])
    }

    /// The same with further arguments for the server.
    pub fn start_with(site: &Site, options: &str, arguments: &[&str]) -> Mounted {
        let path = format!("{}/{BUCKET}", Site::TENANT);
        if crate::command::run(&mut site.command(&["bucket", "show", &path])).code != Some(0) {
            site.tombolo(&["bucket", "create", &path]);
        }
        let point = site.scratch("mnt");
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut mounted = Mounted { server: None, point, options: options.to_owned(), arguments };
        mounted.serve(site);
        mounted
    }

    /// Starts the server again, after [`Mounted::kill`].
    pub fn serve(&mut self, site: &Site) {
        let mount = format!("{}/{BUCKET}={}", Site::TENANT, self.point.display());
        let mut arguments = vec!["--mount", &mount, "--mount-options", &self.options];
        arguments.extend(self.arguments.iter().map(String::as_str));
        self.server = Some(site.serve_with(&arguments));
        // It answers over S3 a little earlier.
        crate::wait::until("the mount", || {
            let mounts = std::fs::read_to_string("/proc/mounts").expect("the list of mounts");
            let is_listed = mounts.contains(self.point.to_str().expect("a plain path"));
            (is_listed && std::fs::read_dir(&self.point).is_ok()).then_some(())
        });
    }

    /// Ends the server as a power cut would end its process. The dead mount stays.
    pub fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill();
        }
    }

    /// Ends the server as an operator would.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }

    /// The root of the mounted bucket.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// The server.
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("the server runs")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The process goes first: what is left is dead, and unmounts without waiting for anybody.
        self.server.take();
        let _ = Command::new("umount").arg("--lazy").arg(&self.point).output();
    }
}
