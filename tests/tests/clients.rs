//! The S3 door under the programs people point at it: AWS CLI, rclone, s3cmd, restic, boto3 and Arrow (Parquet).

use std::path::Path;
use std::process::Command;
use tombolo_tests::command::{repository, run, tool};
use tombolo_tests::content::Content;
use tombolo_tests::server::{Server, Site};
use tombolo_tests::tree;

/// `program`, with the server's address and keys in the environment and nothing of this machine's configuration.
fn client(program: &str, server: &Server, home: &Path) -> Command {
    let keys = Site::credentials();
    let mut command = Command::new(tool(program));
    command
        .current_dir(home)
        .env("HOME", home)
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("AWS_ACCESS_KEY_ID", keys.access_key)
        .env("AWS_SECRET_ACCESS_KEY", keys.secret_key)
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_ENDPOINT_URL", server.endpoint())
        .env_remove("AWS_PROFILE")
        .env_remove("AWS_CA_BUNDLE");
    command
}

#[test]
fn aws_cli() {
    let site = Site::new();
    let server = site.serve();
    let home = site.scratch("aws");
    let aws = |arguments: &[&str]| {
        let mut command = client("aws", &server, &home);
        command.args(arguments);
        command
    };
    let ok = |arguments: &[&str]| run(&mut aws(arguments)).success();
    tree::write(&home.join("tree"), 1, 60);
    // Large enough for the CLI to send it in parts and to fetch it in ranges.
    std::fs::write(home.join("large"), Content::new(1, 40 << 20).bytes()).unwrap();

    ok(&["s3", "mb", "s3://bucket"]);
    assert!(ok(&["s3", "ls"]).contains("bucket"));
    ok(&["s3", "sync", "tree", "s3://bucket/tree", "--no-progress"]);
    ok(&["s3", "sync", "s3://bucket/tree", "copy", "--no-progress"]);
    tree::assert_same(&home.join("tree"), &home.join("copy"));
    assert_eq!(ok(&["s3", "sync", "tree", "s3://bucket/tree", "--no-progress"]), "", "a second sync has nothing to do");

    ok(&[
        "s3",
        "cp",
        "large",
        "s3://bucket/large",
        "--no-progress",
        "--metadata",
        "origin=lab",
        "--content-type",
        "x/y",
    ]);
    ok(&["s3", "cp", "s3://bucket/large", "large-back", "--no-progress"]);
    assert!(std::fs::read(home.join("large")).unwrap() == std::fs::read(home.join("large-back")).unwrap());
    let head = ok(&["s3api", "head-object", "--bucket", "bucket", "--key", "large"]);
    assert!(head.contains("\"origin\": \"lab\"") && head.contains("\"ContentType\": \"x/y\""), "{head}");
    // Above 8 MiB the CLI copies in parts.
    ok(&["s3", "cp", "s3://bucket/large", "s3://bucket/moved", "--no-progress"]);
    ok(&["s3", "mv", "s3://bucket/moved", "s3://bucket/moved twice", "--no-progress"]);
    let first = "bytes=1000000-1000099";
    ok(&["s3api", "get-object", "--bucket", "bucket", "--key", "moved twice", "--range", first, "piece"]);
    assert_eq!(std::fs::read(home.join("piece")).unwrap(), Content::new(1, 40 << 20).bytes()[1_000_000..1_000_100]);

    ok(&[
        "s3api",
        "put-object-tagging",
        "--bucket",
        "bucket",
        "--key",
        "large",
        "--tagging",
        "TagSet=[{Key=a,Value=b}]",
    ]);
    assert!(ok(&["s3api", "get-object-tagging", "--bucket", "bucket", "--key", "large"]).contains("\"Value\": \"b\""));
    let enabled = "Status=Enabled";
    ok(&["s3api", "put-bucket-versioning", "--bucket", "bucket", "--versioning-configuration", enabled]);
    ok(&["s3", "cp", "tree/level-1/deeper 1/001-with space.txt", "s3://bucket/large", "--no-progress"]);
    let versions =
        ok(&["s3api", "list-object-versions", "--bucket", "bucket", "--prefix", "large", "--output", "json"]);
    let versions: serde_json::Value = serde_json::from_str(&versions).unwrap();
    assert_eq!(versions["Versions"].as_array().map(Vec::len), Some(2), "{versions}");
    // Presigned: whoever has the address needs no keys. Left to itself this CLI signs addresses the old way, Version 2.
    ok(&["configure", "set", "default.s3.signature_version", "s3v4"]);
    let address = ok(&["s3", "presign", "s3://bucket/tree/level-1/deeper 1/001-with space.txt"]);
    let script = "import sys, urllib.request as r; sys.stdout.buffer.write(r.urlopen(sys.argv[1]).read())";
    let output = Command::new(tool("python3")).args(["-c", script, address.trim()]).output().unwrap();
    assert_eq!(output.stdout, std::fs::read(home.join("tree/level-1/deeper 1/001-with space.txt")).unwrap());

    for (arguments, error) in [
        (&["s3api", "head-bucket", "--bucket", "nowhere"][..], "404"),
        (&["s3api", "get-object", "--bucket", "bucket", "--key", "nothing", "out"], "NoSuchKey"),
        (&["s3api", "delete-bucket", "--bucket", "bucket"], "BucketNotEmpty"),
        (
            &["s3api", "put-object", "--bucket", "bucket", "--key", "large", "--if-none-match", "*"],
            "PreconditionFailed",
        ),
        (&["s3", "ls", "--no-sign-request"], "AccessDenied"),
    ] {
        let finished = run(&mut aws(arguments));
        assert!(finished.code != Some(0) && finished.stderr.contains(error), "{arguments:?} gave {finished:?}");
    }
    let mut stranger = aws(&["s3", "ls"]);
    let finished = run(stranger.env("AWS_SECRET_ACCESS_KEY", "not-the-secret"));
    assert!(finished.stderr.contains("SignatureDoesNotMatch"), "{finished:?}");

    ok(&["s3", "rm", "s3://bucket", "--recursive"]);
    assert_eq!(ok(&["s3", "ls", "s3://bucket", "--recursive"]), "");
    server.stop();
}

#[test]
fn rclone() {
    let site = Site::new();
    let server = site.serve();
    let home = site.scratch("rclone");
    tree::write(&home.join("tree"), 2, 80);
    let ok = |arguments: &[&str]| {
        let mut command = client("rclone", &server, &home);
        command
            .env("RCLONE_CONFIG_T_TYPE", "s3")
            .env("RCLONE_CONFIG_T_PROVIDER", "Other")
            .env("RCLONE_CONFIG_T_ENV_AUTH", "true")
            .env("RCLONE_CONFIG_T_ENDPOINT", server.endpoint())
            .env("RCLONE_CONFIG", home.join("rclone.conf"))
            // Small parts, so that the middle-sized files go as multipart uploads.
            .args(["--s3-upload-cutoff", "2M", "--s3-chunk-size", "5M", "--retries", "1", "--low-level-retries", "1"])
            .args(arguments);
        run(&mut command)
    };
    ok(&["mkdir", "t:bucket"]).success();
    ok(&["sync", "tree", "t:bucket/tree"]).success();
    ok(&["check", "--download", "tree", "t:bucket/tree"]).success();
    ok(&["check", "tree", "t:bucket/tree"]).success();
    ok(&["sync", "t:bucket/tree", "back"]).success();
    tree::assert_same(&home.join("tree"), &home.join("back"));
    ok(&["copyto", "t:bucket/tree", "t:bucket/second"]).success();
    ok(&["check", "t:bucket/tree", "t:bucket/second"]).success();
    // Changes go over, and only changes.
    std::fs::remove_dir_all(home.join("tree/level-1")).unwrap();
    std::fs::write(home.join("tree/new"), "new").unwrap();
    ok(&["sync", "tree", "t:bucket/tree"]).success();
    ok(&["check", "tree", "t:bucket/tree"]).success();
    // No placeholder keeps an emptied prefix alive.
    let listed = ok(&["lsf", "--dirs-only", "t:bucket/tree"]).success();
    assert!(!listed.contains("level-1"), "{listed}");
    ok(&["copyto", "tree/new", "t:bucket/single"]).success();
    assert_eq!(ok(&["cat", "t:bucket/single"]).success(), "new");
    ok(&["purge", "t:bucket"]).success();
    assert_eq!(ok(&["lsd", "t:"]).success(), "");
    server.stop();
}

#[test]
fn s3cmd() {
    let site = Site::new();
    let server = site.serve();
    let home = site.scratch("s3cmd");
    tree::write(&home.join("tree"), 3, 40);
    std::fs::write(home.join("large"), Content::new(3, 17 << 20).bytes()).unwrap();
    let ok = |arguments: &[&str]| {
        let keys = Site::credentials();
        let mut command = client("s3cmd", &server, &home);
        command
            .args(["--access_key", &keys.access_key, "--secret_key", &keys.secret_key, "--no-ssl"])
            .args(["--host", &server.address.to_string(), "--host-bucket", &server.address.to_string()])
            .args(["--config", "/dev/null", "--region", "us-east-1", "--multipart-chunk-size-mb", "5", "--no-progress"])
            .args(arguments);
        run(&mut command).success()
    };
    ok(&["mb", "s3://bucket"]);
    ok(&["sync", "tree/", "s3://bucket/tree/"]);
    ok(&["sync", "s3://bucket/tree/", "back/"]);
    tree::assert_same(&home.join("tree"), &home.join("back"));
    ok(&["put", "large", "s3://bucket/large"]);
    ok(&["get", "s3://bucket/large", "large-back"]);
    assert!(std::fs::read(home.join("large")).unwrap() == std::fs::read(home.join("large-back")).unwrap());
    ok(&["cp", "s3://bucket/large", "s3://bucket/copy"]);
    ok(&["mv", "s3://bucket/copy", "s3://bucket/moved"]);
    assert!(ok(&["info", "s3://bucket/moved"]).contains("17825792"));
    ok(&["del", "--recursive", "--force", "s3://bucket"]);
    ok(&["rb", "s3://bucket"]);
    assert_eq!(ok(&["ls"]), "");
    server.stop();
}

#[test]
fn restic() {
    let site = Site::new();
    let server = site.serve();
    let home = site.scratch("restic");
    tree::write(&home.join("tree"), 4, 80);
    let ok = |arguments: &[&str]| {
        let mut command = client("restic", &server, &home);
        command.env("RESTIC_REPOSITORY", format!("s3:{}/backups/laptop", server.endpoint()));
        command.env("RESTIC_PASSWORD", "a password");
        command.args(arguments);
        run(&mut command).success()
    };
    ok(&["init"]);
    ok(&["backup", "tree"]);
    // restore of the first state, after a second one exists
    tree::write(&home.join("first/tree"), 4, 80);
    std::fs::remove_dir_all(home.join("tree/level-0")).unwrap();
    tree::write(&home.join("tree/level-3"), 5, 30);
    ok(&["backup", "tree"]);
    ok(&["check", "--read-data"]);
    let snapshots: serde_json::Value = serde_json::from_str(&ok(&["snapshots", "--json"])).unwrap();
    let first = snapshots[0]["short_id"].as_str().unwrap().to_string();
    ok(&["restore", &first, "--target", "restored-first"]);
    tree::assert_same(&home.join("first/tree"), &home.join("restored-first/tree"));
    ok(&["restore", "latest", "--target", "restored"]);
    tree::assert_same(&home.join("tree"), &home.join("restored/tree"));
    ok(&["forget", "--keep-last", "1", "--prune"]);
    ok(&["check", "--read-data"]);
    ok(&["restore", "latest", "--target", "restored-again"]);
    tree::assert_same(&home.join("tree"), &home.join("restored-again/tree"));
    server.stop();
    // Giving back the space that prune left is the engine's part.
    site.tombolo(&["gc"]);
    site.tombolo(&["scrub"]);
}

#[test]
fn boto3() {
    python("boto3_client.py");
}

#[test]
fn arrow_on_parquet() {
    python("parquet.py");
}

/// Runs a script of `tests/clients` against a server of its own.
fn python(script: &str) {
    let site = Site::new();
    let server = site.serve();
    let home = site.scratch("python");
    let mut command = client("python3", &server, &home);
    run(command.arg(repository().join("tests/clients").join(script))).success();
    server.stop();
}
