//! Clusters, tenants, buckets and users, without a daemon and with one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test panics when something is not as it must be"
)]

mod site;

use site::{BUCKET, Daemon, Site, both_ways};
use std::os::unix::fs::PermissionsExt;

fn names(site: &Site, args: &[&str]) -> Vec<String> {
    let listed = site.json(args);
    listed.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_string()).collect()
}

#[test]
fn the_levels_of_the_namespace() {
    both_ways(|site| {
        site.run(&["cluster", "create", "NewYork"]).ok();
        site.run(&["cluster", "create", "NewYork"]).fails(1, "NewYork");
        assert_eq!(names(site, &["cluster", "list"]), ["NewYork", "Test"]);
        site.run(&["tenant", "create", "NewYork/a"]).ok();
        site.run(&["tenant", "create", "NewYork/b"]).ok();
        assert_eq!(names(site, &["tenant", "list", "NewYork"]), ["a", "b"]);
        assert_eq!(site.json(&["cluster", "show", "NewYork"])["tenants"], serde_json::json!(["a", "b"]));
        site.run(&["bucket", "create", "NewYork/a/one"]).ok();
        assert_eq!(names(site, &["bucket", "list", "NewYork/a"]), ["one"]);
        assert_eq!(site.json(&["tenant", "show", "NewYork/a"])["buckets"], serde_json::json!(["one"]));
        assert_eq!(names(site, &["ls"]), ["NewYork", "Test"]);
        assert_eq!(names(site, &["ls", "NewYork"]), ["a", "b"]);
        assert_eq!(names(site, &["ls", "NewYork/a"]), ["one"]);
        assert_eq!(site.run(&["ls", "NewYork/a"]).text().lines().count(), 2);

        site.run(&["tenant", "delete", "NewYork/a"]).fails(1, "");
        site.run(&["cluster", "delete", "NewYork"]).fails(1, "");
        site.run(&["bucket", "delete", "NewYork/a/one"]).ok();
        site.run(&["tenant", "delete", "NewYork/a"]).ok();
        site.run(&["tenant", "delete", "NewYork/b"]).ok();
        site.run(&["cluster", "delete", "NewYork"]).ok();
        assert_eq!(names(site, &["cluster", "list"]), ["Test"]);
    });
}

/// A directory that holds something else is refused as it is: it keeps its mode, and gets no lock.
#[test]
fn a_refused_directory_is_left_alone() {
    let site = Site::new();
    let dir = site.place("home");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("notes"), b"mine").unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let init = site::command(&dir, &["init", "--segment", "x", "--cluster", "X"]).output().unwrap();
    assert_eq!(init.status.code(), Some(1));
    let said = String::from_utf8_lossy(&init.stderr).into_owned();
    assert!(said.contains("not empty"), "{said}");
    let said = Daemon::try_start(&dir, &["--s3", "127.0.0.1:0"]).err().unwrap();
    assert!(said.contains("not empty"), "{said}");
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o7777, 0o755);
    let names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["notes"]);
}

#[test]
fn what_is_not_there_is_named_with_the_next_step() {
    both_ways(|site| {
        site.run(&["bucket", "show", "Test/lab/none"]).fails(3, "tombolo bucket create");
        site.run(&["bucket", "list", "Test/none"]).fails(3, "tombolo tenant create");
        site.run(&["tenant", "list", "None"]).fails(3, "tombolo cluster create");
        site.run(&["bucket", "create", "Test/none/b"]).fails(3, "tombolo tenant create");
        site.run(&["bucket", "delete", "Test/lab/none"]).fails(3, "none");
        site.run(&["user", "delete", "Test/lab", "nobody"]).fails(3, "nobody");
        site.run(&["bucket", "create", "Test/lab"]).fails(2, "CLUSTER/TENANT/BUCKET");
        site.run(&["bucket", "create", "Test/lab/-x"]).fails(2, "-x");
        let refused = site.run(&["bucket", "show", "Test/lab/none", "--json"]);
        let error: serde_json::Value = serde_json::from_str(&refused.stderr).unwrap();
        assert_eq!(error["error"]["kind"], "not-found");
        assert_eq!(error["error"]["about"], "bucket");
        assert_eq!(refused.code, 3);
    });
}

#[test]
fn bucket_policy_is_set_and_shown() {
    both_ways(|site| {
        let made = site.json(&["bucket", "create", "Test/lab/p", "--set", "versioning=on", "--set", "etag=opaque"]);
        assert_eq!(made["policy"]["versioning"], "on");
        site.run(&["bucket", "set", "Test/lab/p", "compression=zstd", "chunking=fixed:4096"]).ok();
        site.run(&["bucket", "set", "Test/lab/p", "--set", "quota-objects=1", "--set", "uid=1000"]).ok();
        site.run(&["bucket", "set", "Test/lab/p", "gid=1001", "file-mode=0640", "directory-mode=2750"]).ok();
        let shown = site.json(&["bucket", "show", "Test/lab/p"]);
        assert_eq!(shown["path"], "Test/lab/p");
        assert_eq!(shown["policy"]["versioning"], "on");
        assert_eq!(shown["policy"]["etag"], "opaque");
        assert_eq!(shown["policy"]["compression"], "zstd");
        assert_eq!(shown["policy"]["chunking"], "fixed:4096");
        assert_eq!(shown["policy"]["quota-objects"], 1);
        assert_eq!((&shown["policy"]["uid"], &shown["policy"]["gid"]), (&1000.into(), &1001.into()));
        assert_eq!(
            (&shown["policy"]["file-mode"], &shown["policy"]["directory-mode"]),
            (&"640".into(), &"2750".into())
        );
        assert_eq!(shown["usage"]["objects"], 0);
        assert!(site.run(&["bucket", "show", "Test/lab/p"]).text().contains("zstd"));
        site.run(&["bucket", "set", "Test/lab/p", "compression=brotli"]).fails(2, "lz4");
        site.run(&["bucket", "set", "Test/lab/p", "colour=red"]).fails(2, "quota-bytes");

        site.feed(&["put", "-", "Test/lab/p/a"], b"1").ok();
        site.feed(&["put", "-", "Test/lab/p/b"], b"2").fails(1, "quota");
        site.run(&["bucket", "delete", "Test/lab/p"]).fails(1, "tombolo rm -r");
    });
}

#[test]
fn users_have_keys_that_are_shown_once() {
    both_ways(|site| {
        let made = site.json(&["user", "create", "Test/lab", "ada"]);
        let secret = made["secret_key"].as_str().unwrap().to_string();
        assert!(secret.len() >= 20 && made["access_key"].as_str().unwrap().len() >= 10);
        site.run(&[
            "user",
            "create",
            "Test/lab",
            "bob",
            "--access-key",
            "BOBSKEY1234567890",
            "--secret-key",
            "hush-hush-hush-hush-hush",
        ])
        .ok();
        let listed = site.run(&["user", "list", "Test/lab", "--json"]).text();
        assert!(listed.contains("BOBSKEY1234567890"));
        assert!(!listed.contains("hush") && !listed.contains(&secret));
        assert_eq!(names(site, &["user", "list", "Test/lab"]), ["ada", "bob"]);
        site.run(&["user", "create", "Test/lab", "ada"]).fails(1, "ada");
        site.run(&["user", "delete", "Test/lab", "ada"]).ok();
        assert_eq!(names(site, &["user", "list", "Test/lab"]), ["bob"]);
    });
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let site = Site::new();
    site.run(&["fly"]).fails(2, "fly");
    site.run(&["ls", "//"]).fails(2, "CLUSTER/TENANT/BUCKET");
    site.run(&["bucket", "set", BUCKET]).fails(2, "KEY=VALUE");
    assert!(site.run(&["import", "--help"]).text().contains("resumed"));
    assert!(site.run(&["--help"]).text().contains("Exit codes"));
    assert!(site.run(&["completions", "bash"]).text().contains("_tombolo"));
    let mut bare = std::process::Command::new(env!("CARGO_BIN_EXE_tombolo"));
    let output = bare.arg("status").env_remove("TOMBOLO_DIR").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("TOMBOLO_DIR"));
}
