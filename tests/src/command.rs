//! Programs: the project's own binaries, and the client programs the suite installs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests package lies in the repository")
}

/// A binary (or, as `examples/NAME`, an example) of the workspace in the profile of the running test. Builds them first,
/// unless `TOMBOLO_PREBUILT` says that it has been done.
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let test = std::env::current_exe().expect("the running test has a path");
    let profile = test.ancestors().find(|dir| dir.ends_with("debug") || dir.ends_with("release"));
    let profile = profile.expect("tests run from a target directory");
    BUILT.get_or_init(|| {
        if std::env::var_os("TOMBOLO_PREBUILT").is_none() {
            let mut build = Command::new(env!("CARGO"));
            // The whole workspace, so that the dependencies' features are those of the tests and nothing builds twice.
            build.current_dir(repository()).args(["build", "--workspace", "--bins", "--examples", "--quiet"]);
            if profile.ends_with("release") {
                build.arg("--release");
            }
            run(&mut build).success();
        }
    });
    let path = profile.join(name);
    assert!(path.is_file(), "{} is not there: cargo build --workspace --bins --examples", path.display());
    path
}

/// `tombolo ARGS`.
pub fn tombolo<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(binary("tombolo"));
    command.args(args).env_remove("TOMBOLO_DIR").env("NO_COLOR", "1");
    command
}

/// A client program: from what the suite installed for itself if it is there, else from the system. Panics if it is missing,
/// as a client that is not tried is not known to work.
pub fn tool(name: &str) -> PathBuf {
    for own in ["target/test-tools/venv/bin", "target/test-tools/bin"] {
        let path = repository().join(own).join(name);
        if path.is_file() {
            return path;
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed: ./test tools"))
}

/// How a program ended.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output of a program that ended with 0; else a panic with all it said.
    pub fn success(self) -> String {
        self.exits(0).stdout
    }

    /// Itself, after checking the exit code.
    #[must_use]
    pub fn exits(self, code: i32) -> Finished {
        assert!(
            self.code == Some(code),
            "{} ended with {:?} instead of {code}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }
}

/// Runs a program to its end, without standard input.
pub fn run(command: &mut Command) -> Finished {
    let line = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{line}: {error}"));
    Finished {
        command: line,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
