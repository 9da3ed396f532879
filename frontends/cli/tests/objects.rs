//! Single objects: put, get, ls, stat, rm, cp, mv, versions and snapshots, without a daemon and with one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test panics when something is not as it must be"
)]

mod site;

use serde_json::Value;
use site::{BUCKET, Site, both_ways};
use std::process::Stdio;

fn path(key: &str) -> String {
    format!("{BUCKET}/{key}")
}

/// Bytes that neither compress nor repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn what_is_put_is_what_is_got() {
    both_ways(|site| {
        for (name, content) in [("empty", vec![]), ("small", b"hello".to_vec()), ("large", noise(9_000_001))] {
            let from = site.file(name, &content);
            let stored = site.json(&["put", from.to_str().unwrap(), BUCKET]);
            assert_eq!(stored["key"], name);
            assert_eq!(stored["size"], content.len());
            assert_eq!(stored["bucket"], BUCKET);
            let to = site.place("got");
            site.run(&["get", &path(name), to.to_str().unwrap()]).ok();
            assert!(std::fs::read(&to).unwrap() == content, "{name}");
            assert!(site.run(&["get", &path(name), "-"]).ok() == content, "{name}");
            site.feed(&["put", "-", &path("piped")], &content).ok();
            assert!(site.run(&["get", &path("piped"), "-"]).ok() == content, "{name}");
        }
        let into = site.place("into");
        std::fs::create_dir(&into).unwrap();
        site.run(&["get", &path("small"), into.to_str().unwrap()]).ok();
        assert_eq!(std::fs::read(into.join("small")).unwrap(), b"hello");
        assert_eq!(std::fs::read_dir(&into).unwrap().count(), 1);
        site.run(&["get", &path("small"), "/dev/null"]).ok();
    });
}

#[test]
fn what_goes_with_an_object_is_kept() {
    both_ways(|site| {
        let args = [
            "put",
            "-",
            &path("k"),
            "--header",
            "Content-Type=text/x-test",
            "--metadata",
            "Origin=there",
            "--tag",
            "colour=red",
        ];
        site.feed(&args, b"x").ok();
        let shown = site.json(&["stat", &path("k")]);
        assert_eq!(shown["headers"]["content-type"], "text/x-test");
        assert_eq!(shown["metadata"]["origin"], "there");
        assert_eq!(shown["tags"]["colour"], "red");
        assert_eq!(shown["type"], "file");
        assert_eq!(shown["current"], true);
        let time = shown["time"].as_str().unwrap();
        assert!(time.len() == 30 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
        let text = site.run(&["stat", &path("k")]).text();
        assert!(text.contains("text/x-test") && text.contains("colour=red"), "{text}");
        site.feed(&["put", "-", &path("k"), "--if-absent"], b"y").fails(1, "exists");
        assert_eq!(site.get("k"), "x");
    });
}

#[test]
fn listings_have_one_level_or_all() {
    both_ways(|site| {
        for key in ["a", "a/b", "a/c/d", "e f", "z"] {
            site.put(key, key);
        }
        assert_eq!(site.run(&["ls", BUCKET]).text(), "a\na/\ne f\nz\n");
        assert_eq!(site.run(&["ls", &path("a/")]).text(), "b\nc/\n");
        assert_eq!(site.run(&["ls", "-r", &path("a/")]).text(), "a/b\na/c/d\n");
        assert_eq!(site.keys(BUCKET), ["a", "a/b", "a/c/d", "e f", "z"]);
        // A path that is both an object and a directory shows both.
        let listed = site.json(&["ls", &path("a")]);
        let keys: Vec<_> = listed.as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap()).collect();
        assert_eq!(keys, ["a", "a/b", "a/c/"]);
        assert_eq!(listed[1]["size"], 3);
        assert_eq!(listed[2]["type"], "prefix");
        assert!(listed[1]["etag"].is_string() && listed[1]["time"].is_string());
        let long = site.run(&["ls", "-l", BUCKET]).text();
        assert!(long.lines().next().unwrap().contains("1 B  yes "), "{long}");
        let long = site.json(&["ls", "-l", BUCKET]);
        assert_eq!((&long[0]["local"], &long[0]["local_bytes"]), (&"yes".into(), &1.into()));
        assert_eq!(site.json(&["stat", &path("a/b")])["local_bytes"], 3);
        // What is pinned need not exist; a pin is taken back by its own path.
        assert_eq!(site.json(&["sync", "pin", &path("later/")])["pinned"], true);
        assert_eq!(site.json(&["sync", "unpin", &path("later/")])["pinned"], false);
        site.run(&["sync", "unpin", &path("later/")]).fails(3, "not pinned");
        assert_eq!(site.json(&["sync", "persist", BUCKET])["persisted"], 0);
        site.run(&["sync", "persist", &path("later/")]).fails(3, "later/");
        site.run(&["sync", "pin", "Test/lab"]).fails(2, "names no bucket");
        site.run(&["ls", &path("none")]).fails(3, "none");
        site.run(&["ls", "Test/lab/none"]).fails(3, "none");
    });
}

/// What a program reads is JSON or nothing: a listing that fails does not leave the beginning of an array behind.
#[test]
fn a_failed_listing_prints_nothing() {
    both_ways(|site| {
        let none = path("none");
        for args in [["ls", &none], ["ls", "Test/lab/none"], ["versions", &none], ["versions", "Test/lab/none"]] {
            let ran = site.run(&[args[0], args[1], "--json"]);
            assert_eq!((ran.code, ran.stdout.as_slice()), (3, &b""[..]), "{args:?}");
        }
        for args in [["ls", BUCKET], ["versions", BUCKET]] {
            assert_eq!(site.json(&args), serde_json::json!([]), "{args:?}");
        }
    });
}

#[test]
fn listings_go_past_a_page() {
    let site = Site::with_daemon();
    let from = site.place("many");
    std::fs::create_dir(&from).unwrap();
    for number in 0..2500 {
        std::fs::write(from.join(format!("f{number:04}")), b"").unwrap();
    }
    site.run(&["import", from.to_str().unwrap(), BUCKET]).ok();
    let keys = site.keys(BUCKET);
    assert_eq!(keys.len(), 2500);
    assert_eq!(keys.last().unwrap(), "f2499");
    let removed = site.json(&["rm", "-r", BUCKET]);
    assert_eq!(removed["removed"], 2500);
    assert!(site.keys(BUCKET).is_empty());
}

#[test]
fn what_is_removed_is_gone() {
    both_ways(|site| {
        for key in ["a", "a/b", "a/c/d", "ab", "z"] {
            site.put(key, key);
        }
        site.run(&["rm", &path("z")]).ok();
        site.run(&["get", &path("z"), "-"]).fails(3, "z");
        site.run(&["rm", &path("z")]).fails(3, "z");
        site.run(&["rm", BUCKET]).fails(2, "rm -r");
        site.run(&["rm", "-r", &path("a")]).ok();
        assert_eq!(site.keys(BUCKET), ["ab"]);
        site.run(&["rm", "-r", &path("a")]).fails(3, "a");
        // "$BUCKET/$NAME" without a name.
        site.run(&["rm", "-r", &path("")]).fails(2, "rm -r Test/lab/box");
        assert_eq!(site.keys(BUCKET), ["ab"]);
        site.run(&["get", &path("none"), site.place("out").to_str().unwrap()]).fails(3, "none");
        assert!(!site.place("out").exists());
        site.run(&["put", site.place("out").to_str().unwrap(), BUCKET]).fails(3, "out");
    });
}

#[test]
fn copies_and_renames() {
    both_ways(|site| {
        site.run(&["bucket", "create", "Test/lab/other"]).ok();
        site.put("a/x", "one");
        site.put("a/y/z", "two");
        site.run(&["cp", &path("a/x"), &path("b")]).ok();
        assert_eq!(site.get("b"), "one");
        site.run(&["cp", &path("a/x"), "Test/lab/other/"]).ok();
        assert_eq!(site.run(&["get", "Test/lab/other/x", "-"]).text(), "one");
        site.run(&["cp", "-r", &path("a"), "Test/lab/other/copy"]).ok();
        assert_eq!(site.keys("Test/lab/other"), ["copy/x", "copy/y/z", "x"]);
        site.run(&["cp", "-r", &path("a"), &path("a/inside")]).fails(2, "inside");

        site.run(&["mv", &path("b"), &path("c")]).ok();
        site.run(&["mv", &path("a"), &path("moved")]).ok();
        assert_eq!(site.keys(BUCKET), ["c", "moved/x", "moved/y/z"]);
        site.run(&["mv", &path("c"), "Test/lab/other/"]).ok();
        assert_eq!(site.run(&["get", "Test/lab/other/c", "-"]).text(), "one");
        site.run(&["get", &path("c"), "-"]).fails(3, "c");
        site.run(&["mv", &path("moved"), "Test/lab/other/m"]).fails(2, "cp -r");
        site.run(&["mv", &path("none"), &path("n")]).fails(3, "none");
        site.run(&["cp", &path("none"), &path("n")]).fails(3, "none");
    });
}

/// An error about one object is no end, and what is there beside a directory of its name is copied with it.
#[test]
fn a_tree_is_copied_as_far_as_it_can_be() {
    both_ways(|site| {
        for key in ["a", "a/b", "a/c", "a/d"] {
            site.put(key, key);
        }
        assert_eq!(site.json(&["cp", "-r", &path("a"), &path("e")])["copied"], 4);
        assert_eq!(site.keys(&path("e")), ["e", "e/b", "e/c", "e/d"]);
        assert_eq!(site.get("e"), "a");
        // The name is taken over where TO is a bucket or ends with a slash, as without -r.
        site.run(&["bucket", "create", "Test/lab/whole"]).ok();
        assert_eq!(site.json(&["cp", "-r", &path("a"), "Test/lab/whole"])["copied"], 4);
        assert_eq!(site.keys("Test/lab/whole"), ["a", "b", "c", "d"]);
        site.put("single", "single");
        site.run(&["mkdir", &path("into")]).ok();
        site.run(&["cp", "-r", &path("single"), &path("into")]).fails(2, "is a directory");
        site.run(&["cp", "-r", &path("single"), &path("into/")]).ok();
        assert_eq!(site.get("into/single"), "single");
        site.run(&["rm", &path("e")]).ok();
        site.run(&["bucket", "create", "Test/lab/tight", "--set", "quota-objects=2"]).ok();
        let ran = site.run(&["cp", "-r", &path("e"), "Test/lab/tight", "--json"]);
        let summary: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!((&summary["copied"], &summary["failed"]), (&2.into(), &1.into()));
        ran.fails(1, "quota");
        assert_eq!(site.keys("Test/lab/tight").len(), 2);
        site.run(&["bucket", "create", "Test/lab/empty"]).ok();
        assert_eq!(site.json(&["cp", "-r", "Test/lab/empty", &path("e")])["copied"], 0);
    });
}

#[test]
fn directories_are_made_and_not_written_over() {
    both_ways(|site| {
        assert_eq!(site.json(&["mkdir", &path("d")])["created"], true);
        site.run(&["mkdir", &path("d")]).fails(1, "exists");
        assert_eq!(site.json(&["mkdir", "-p", &path("d/")])["created"], false);
        site.run(&["mkdir", &path("x/y")]).fails(3, "'x/'");
        assert_eq!(site.json(&["mkdir", "-p", &path("x/y")])["created"], true);
        assert_eq!(site.keys(BUCKET), ["d/", "x/", "x/y/"]);
        site.put("f", "f");
        site.run(&["mkdir", "-p", &path("f")]).fails(1, "exists");
        for directory in ["d", "x"] {
            site.feed(&["put", "-", &path(directory)], b"content").fails(2, "is a directory");
            site.run(&["cp", &path("f"), &path(directory)]).fails(2, "is a directory");
        }
        site.run(&["cp", &path("f"), &path("d/")]).ok();
        assert_eq!(site.get("d/f"), "f");
    });
}

#[test]
fn wrong_usage_is_json_where_that_is_asked_for() {
    let site = Site::new();
    for args in [&["ls", "--no-such-flag", "--json"][..], &["--json", "no-such-verb"]] {
        let ran = site.run(args);
        let error: Value = serde_json::from_str(&ran.stderr).unwrap();
        assert_eq!((error["error"]["kind"].as_str(), ran.code), (Some("invalid"), 2));
        assert!(error["error"]["message"].as_str().unwrap().contains("no-such"), "{error}");
    }
    site.run(&["ls", "--no-such-flag"]).fails(2, "Usage");
}

#[test]
fn versions_can_be_listed_read_and_removed() {
    both_ways(|site| {
        site.run(&["bucket", "set", BUCKET, "versioning=on"]).ok();
        site.put("k", "one");
        site.put("k", "three");
        site.put("kk", "other");
        site.run(&["rm", &path("k")]).ok();
        let versions = site.json(&["versions", &path("k")]);
        let versions = versions.as_array().unwrap();
        assert_eq!(versions.len(), 3);
        for version in versions {
            for field in ["version", "key", "size", "segment", "time", "current"] {
                assert!(!version[field].is_null(), "{field}: {version}");
            }
            assert_eq!(version["key"], "k");
        }
        let column = |name: &str| versions.iter().map(|v| v[name].clone()).collect::<Vec<Value>>();
        assert_eq!(column("current"), [true, false, false]);
        assert_eq!(column("marker"), [true, false, false]);
        assert_eq!(column("size"), [0, 5, 3]);
        let oldest = versions[2]["version"].as_str().unwrap();
        assert_eq!(site.run(&["get", &path("k"), "-", "--version", oldest]).text(), "one");
        assert_eq!(site.json(&["stat", &path("k"), "--version", oldest])["size"], 3);
        site.run(&["get", &path("k"), "-"]).fails(3, "k");
        site.run(&["rm", &path("k"), "--version", versions[0]["version"].as_str().unwrap()]).ok();
        assert_eq!(site.get("k"), "three");
        site.run(&["cp", &path("k"), &path("old"), "--version", oldest]).ok();
        assert_eq!(site.get("old"), "one");
        assert_eq!(site.json(&["versions", BUCKET]).as_array().unwrap().len(), 4);
        assert_eq!(site.run(&["versions", &path("k")]).text().lines().count(), 2);
        site.run(&["versions", &path("none")]).fails(3, "none");
        site.run(&["get", &path("k"), "-", "--version", "nonsense"]).fails(2, "nonsense");
    });
}

/// A delete of what is not there failed, and left a delete marker all the same.
#[test]
fn what_is_not_there_leaves_no_marker() {
    both_ways(|site| {
        site.run(&["bucket", "set", BUCKET, "versioning=on"]).ok();
        site.put("a/b", "b");
        site.run(&["rm", &path("none")]).fails(3, "none");
        site.run(&["rm", "-r", &path("a")]).ok();
        site.run(&["rm", &path("a/b")]).fails(3, "a/b");
        site.run(&["rm", "-r", &path("a")]).fails(3, "a");
        let versions = site.json(&["versions", BUCKET]);
        let keys: Vec<_> = versions.as_array().unwrap().iter().map(|v| (&v["key"], &v["marker"])).collect();
        assert_eq!(keys, [(&"a/b".into(), &true.into()), (&"a/b".into(), &false.into())], "{versions}");
    });
}

/// Keys come from others: what a command says of one must neither drive a terminal nor, to a program, name another key.
#[test]
fn errors_and_answers_name_any_key() {
    let site = Site::new();
    let ran = site.run(&["get", &path("x\x1b[2Jy\nz"), "-"]);
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("x\\u{1b}[2Jy\\nz") && !ran.stderr.contains('\x1b'), "{}", ran.stderr);
    site.put("new\nline", "text");
    let removed = site.json(&["rm", &path("new\nline")]);
    assert_eq!((&removed["key"], &removed["path"]), (&"new\nline".into(), &path("new\nline").into()));
}

#[test]
fn snapshots_and_clones() {
    both_ways(|site| {
        site.put("a/x", "old");
        site.put("b", "b");
        let made = site.json(&["snapshot", "create", BUCKET, "first"]);
        assert_eq!(made["name"], "first");
        site.put("a/x", "new");
        site.run(&["rm", &path("b")]).ok();
        assert_eq!(site.run(&["get", &path("a/x"), "-", "--snapshot", "first"]).text(), "old");
        assert_eq!(site.run(&["ls", "-r", BUCKET, "--snapshot", "first"]).text(), "a/x\nb\n");
        let listed = site.json(&["snapshot", "list", BUCKET]);
        assert_eq!(listed[0]["name"], "first");
        assert!(listed[0]["created"].is_string());
        let cloned = site.json(&["snapshot", "clone", BUCKET, "Test/lab/copy", "--snapshot", "first"]);
        assert_eq!(cloned["objects"], 2);
        assert_eq!(site.run(&["get", "Test/lab/copy/a/x", "-"]).text(), "old");
        site.run(&["snapshot", "clone", &path("a"), "Test/lab/part"]).ok();
        let part = site.keys("Test/lab/part");
        assert_eq!(part.len(), 1, "{part:?}");
        site.run(&["snapshot", "create", BUCKET, "first"]).fails(1, "first");
        site.run(&["snapshot", "delete", BUCKET, "first"]).ok();
        site.run(&["snapshot", "delete", BUCKET, "first"]).fails(3, "first");
        assert_eq!(site.json(&["snapshot", "list", BUCKET]), serde_json::json!([]));
    });
}

#[test]
fn status_scrub_and_gc() {
    both_ways(|site| {
        let from = site.file("large", &noise(4 << 20));
        site.run(&["put", from.to_str().unwrap(), BUCKET]).ok();
        let status = site.json(&["status", "--buckets"]);
        assert_eq!(status["name"], "test");
        assert_eq!(status["cluster"], "Test");
        assert!(status["chunks"].as_u64().unwrap() > 0);
        assert_eq!(status["buckets"][0]["usage"]["objects"], 1);
        assert!(site.run(&["status"]).text().contains("test"));
        let scrub = site.json(&["scrub"]);
        assert_eq!(scrub["damage"], serde_json::json!([]));
        assert!(scrub["bytes"].as_u64().unwrap() >= 4 << 20);
        site.run(&["rm", &path("large")]).ok();
        let gc = site.json(&["gc"]);
        assert!(gc["chunks_dropped"].as_u64().unwrap() > 0, "{gc}");
    });
}

/// The key space of S3 is wider than what people type; names must come back as they went in.
#[test]
fn any_key_is_taken() {
    both_ways(|site| {
        for key in ["a//b", "/lead", "..", ".", "spa ce", "\u{e9}\u{1f30a}", "new\nline"] {
            site.put(key, key);
            assert_eq!(site.get(key), key);
        }
        let long = "k".repeat(1024);
        site.put(&long, "long");
        assert_eq!(site.get(&long), "long");
        site.run(&["stat", &path(&"k".repeat(1025))]).fails(2, "1024");
        let keys = site.keys(BUCKET);
        assert_eq!(keys.len(), 8);
        let mut sorted = keys.clone();
        sorted.sort();
        assert_eq!(keys, sorted);
    });
}

/// A reader that has seen enough ends the command quietly.
#[test]
fn a_closed_pipe_is_no_noise() {
    let site = Site::new();
    let from = site.file("large", &noise(8 << 20));
    site.run(&["put", from.to_str().unwrap(), BUCKET]).ok();
    let mut child =
        site.command(&["get", &path("large"), "-"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// Promise P3 at the command line: damage is named, ends with 5, writes nothing, and leaves other objects alone.
#[test]
fn damage_is_named_and_ends_with_5() {
    let site = Site::new();
    for name in ["large", "other"] {
        let mut content = noise(8 << 20);
        content.iter_mut().for_each(|byte| *byte ^= name.as_bytes()[0]);
        site.run(&["put", site.file(name, &content).to_str().unwrap(), BUCKET]).ok();
    }
    // The content does not compress, so it lies in a pack as it is: find a stretch of it and flip a bit there.
    let wanted = &std::fs::read(site.place("large")).unwrap()[4 << 20..][..64];
    let mut found = false;
    let mut stack = vec![site.dir()];
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted) {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            found = true;
        }
    }
    assert!(found, "the content is in no file");
    let to = site.place("to");
    site.run(&["get", &path("large"), to.to_str().unwrap()]).fails(5, "tombolo scrub");
    assert!(!to.exists());
    // What one process has met the next one knows of.
    assert_eq!(site.json(&["status"])["damaged_chunks"], 1);
    let out = site.place("out");
    let exported = site.run(&["export", BUCKET, out.to_str().unwrap()]);
    assert_eq!(exported.code, 5, "{}", exported.stderr);
    assert!(!out.join("large").exists());
    assert!(std::fs::read(out.join("other")).unwrap() == std::fs::read(site.place("other")).unwrap());
    let scrub = site.run(&["scrub", "--json"]);
    assert_eq!(scrub.code, 5, "{}", scrub.stderr);
    let report: Value = serde_json::from_slice(&scrub.stdout).unwrap();
    assert!(!report["damage"].as_array().unwrap().is_empty());
    assert_eq!(report["affected"], serde_json::json!([path("large")]));
    assert_eq!((&report["affected_count"], &report["damage_count"]), (&1.into(), &2.into()));
    site.run(&["put", site.place("large").to_str().unwrap(), &path("again")]).ok();
    assert_eq!(site.json(&["status"])["damaged_chunks"], 0);
    site.run(&["get", &path("large"), to.to_str().unwrap()]).ok();
}
