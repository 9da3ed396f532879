//! README's first command, as a stranger types it: `serve` over a directory that does not exist yet.

use std::process::Command;
use tombolo_tests::command::{binary, repository, run, tool};
use tombolo_tests::server::Server;

/// The value after `NAME=` in what the server printed.
fn exported(log: &str, name: &str) -> String {
    let at = log.find(&format!("{name}=")).unwrap_or_else(|| panic!("no {name}= in:\n{log}"));
    let value = &log[at + name.len() + 1..];
    let end = value.find(|c: char| c.is_whitespace() || c == ';').unwrap_or(value.len());
    value[..end].trim_matches(['\'', '"']).to_string()
}

#[test]
fn the_first_start_prints_what_a_client_needs_and_prints_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let (data, log) = (dir.path().join("data"), dir.path().join("log"));
    let server = Server::start(&data, &log);
    let printed = tombolo_tests::wait::until("the credentials", || {
        let printed = server.log();
        printed.contains("AWS_SECRET_ACCESS_KEY=").then_some(printed)
    });
    let (access, secret) = (exported(&printed, "AWS_ACCESS_KEY_ID"), exported(&printed, "AWS_SECRET_ACCESS_KEY"));
    assert!(access.len() >= 16 && secret.len() >= 32, "{access} and {secret} are too short to be safe");
    let endpoint = server.endpoint();
    assert!(printed.contains(&endpoint), "{endpoint} is not in:\n{printed}");
    // The pasted lines work as they are: nothing comes from this machine's own AWS configuration.
    let aws = |arguments: &[&str]| {
        let mut command = Command::new(tool("aws"));
        command.args(["--endpoint-url", &endpoint]).args(arguments).env("HOME", dir.path());
        command.env("AWS_ACCESS_KEY_ID", &access).env("AWS_SECRET_ACCESS_KEY", &secret);
        command.env("AWS_DEFAULT_REGION", "us-east-1");
        command
    };
    std::fs::write(dir.path().join("hello"), "hello, world").unwrap();
    let hello = dir.path().join("hello").to_string_lossy().into_owned();
    run(&mut aws(&["s3", "mb", "s3://first"])).success();
    run(&mut aws(&["s3", "cp", &hello, "s3://first/hello"])).success();
    server.stop();

    let again = dir.path().join("second-log");
    let server = Server::start(&data, &again);
    let endpoint = server.endpoint();
    let mut command = aws(&["s3", "cp", "s3://first/hello", "-"]);
    assert!(run(command.args(["--endpoint-url", &endpoint])).success().contains("hello, world"));
    assert!(!server.log().contains(&secret), "the secret is printed a second time:\n{}", server.log());
    server.stop();
    // No file of the data directory is there for others to read.
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&data).unwrap());
    assert_eq!(mode & 0o077, 0, "the data directory, which holds secrets, has mode {mode:o}");
}

#[test]
fn the_commands_in_the_readme_are_the_ones_that_are_tested() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    assert!(readme.contains("\ncargo run --release --bin tombolo -- demo\n"), "the first command");
    assert!(readme.contains("\n./test\n"), "the second command");
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", ".ci/run", "test"] {
        assert!(repository().join(name).is_file(), "{name} is missing");
    }
}

#[test]
fn the_embedding_example_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary("examples/embed"));
    command.arg(dir.path().join("artifacts"));
    let first = run(&mut command).success();
    assert!(first.contains("built"), "{first}");
    let second = run(&mut command).success();
    assert!(second.contains("cached"), "the second run finds what the first one stored: {second}");
}
