//! Directory trees in and out again, without a daemon and with one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test panics when something is not as it must be"
)]

mod site;

use site::{BUCKET, Site, both_ways};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A tree with one of everything that needs no privileges.
fn plant(root: &Path) {
    std::fs::create_dir_all(root.join("deep/er/est")).unwrap();
    std::fs::create_dir(root.join("empty")).unwrap();
    std::fs::write(root.join("plain"), b"plain").unwrap();
    std::fs::write(root.join("nothing"), b"").unwrap();
    std::fs::write(root.join("deep/er/est/big"), vec![0xa5; 3_000_000]).unwrap();
    std::fs::write(root.join("deep/run"), b"#!/bin/sh\n").unwrap();
    std::fs::set_permissions(root.join("deep/run"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    std::fs::hard_link(root.join("plain"), root.join("deep/second")).unwrap();
    std::fs::hard_link(root.join("plain"), root.join("zz-third")).unwrap();
    symlink("../plain", root.join("deep/pointer")).unwrap();
    symlink("no such thing", root.join("dangling")).unwrap();
    std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"not utf-8 \xff\xfe")), b"bytes").unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"island", 20 << 20).unwrap();
    assert!(Command::new("mkfifo").arg(root.join("pipe")).status().unwrap().success());
    for (name, time) in [
        ("plain", "2001-02-03T04:05:06.123456789Z"),
        ("empty", "1969-12-31T00:00:00Z"),
        ("deep", "2030-01-01T00:00:00.5Z"),
    ] {
        assert!(Command::new("touch").args(["-d", time]).arg(root.join(name)).status().unwrap().success());
    }
    assert!(
        Command::new("touch")
            .args(["-h", "-d", "2005-01-01T00:00:00Z"])
            .arg(root.join("dangling"))
            .status()
            .unwrap()
            .success()
    );
    std::fs::set_permissions(root.join("empty"), std::fs::Permissions::from_mode(0o700)).unwrap();
}

/// Everything about a tree that must come back: a line for each entry.
fn describe(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut stack = vec![root.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_file() {
                format!("{:?}", content_hash(&std::fs::read(&path).unwrap()))
            } else if metadata.is_symlink() {
                format!("{:?}", std::fs::read_link(&path).unwrap())
            } else {
                String::new()
            };
            let links = if metadata.is_file() { metadata.nlink() } else { 0 };
            lines.push(format!(
                "{:?} {:o} {}:{} {}.{:09} links {links} {content}",
                path.strip_prefix(root).unwrap(),
                metadata.mode(),
                metadata.uid(),
                metadata.gid(),
                metadata.mtime(),
                metadata.mtime_nsec(),
            ));
            if metadata.is_dir() {
                stack.push(path);
            }
        }
    }
    lines.sort();
    lines
}

fn content_hash(bytes: &[u8]) -> (usize, u64) {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    (bytes.len(), hasher.finish())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_tree_comes_back_as_it_was() {
    both_ways(|site| {
        let (from, to) = (site.place("from"), site.place("to"));
        std::fs::create_dir(&from).unwrap();
        plant(&from);
        let target = format!("{BUCKET}/some/where");
        let imported = site.json(&["import", text(&from), &target]);
        assert_eq!(imported["errors"], 0, "{imported}");
        assert_eq!(imported["links"], 2);
        assert_eq!(imported["symlinks"], 2);
        assert_eq!(imported["special"], 1);
        let exported = site.json(&["export", &target, text(&to)]);
        assert_eq!(exported["errors"], 0, "{exported}");
        assert_eq!(describe(&from), describe(&to));
        let inode = |name: &str| std::fs::metadata(to.join(name)).unwrap().ino();
        assert_eq!(inode("plain"), inode("deep/second"));
        assert_eq!(inode("plain"), inode("zz-third"));
        // Holes stay holes where the file system has any.
        let blocks = |root: &Path| std::fs::metadata(root.join("sparse")).unwrap().blocks();
        if blocks(&from) * 512 < 1 << 20 {
            assert!(blocks(&to) * 512 < 1 << 20, "{} blocks", blocks(&to));
        }
        let names: Vec<_> = std::fs::read_dir(&to).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(!names.iter().any(|name| name.as_bytes().ends_with(b".part")), "{names:?}");
    });
}

#[test]
fn a_second_run_finds_nothing_to_do() {
    both_ways(|site| {
        let (from, to) = (site.place("from"), site.place("to"));
        std::fs::create_dir(&from).unwrap();
        plant(&from);
        site.run(&["import", text(&from), BUCKET]).ok();
        for flags in [&[][..], &["--checksum"]] {
            let again = site.json(&[&["import", text(&from), BUCKET], flags].concat());
            assert_eq!(
                (&again["files"], &again["bytes"], &again["errors"]),
                (&0.into(), &0.into(), &0.into()),
                "{again}"
            );
            // Two further names of a file of three are found to be links already.
            assert_eq!(again["links"], 0, "{again}");
        }
        site.run(&["export", BUCKET, text(&to)]).ok();
        for flags in [&[][..], &["--checksum"]] {
            let again = site.json(&[&["export", BUCKET, text(&to)], flags].concat());
            assert_eq!(
                (&again["files"], &again["bytes"], &again["errors"]),
                (&0.into(), &0.into(), &0.into()),
                "{again}"
            );
            assert_eq!(describe(&from), describe(&to));
        }
    });
}

#[test]
fn what_changed_is_brought_up_to_date() {
    both_ways(|site| {
        let (from, to) = (site.place("from"), site.place("to"));
        std::fs::create_dir(&from).unwrap();
        plant(&from);
        site.run(&["import", text(&from), BUCKET]).ok();
        site.run(&["export", BUCKET, text(&to)]).ok();
        std::fs::write(from.join("deep/er/est/big"), b"no longer").unwrap();
        std::fs::write(from.join("new"), b"new").unwrap();
        std::fs::set_permissions(from.join("nothing"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let again = site.json(&["import", text(&from), BUCKET]);
        assert_eq!(again["files"], 2, "{again}");
        let again = site.json(&["export", BUCKET, text(&to)]);
        assert_eq!(again["files"], 2, "{again}");
        assert_eq!(describe(&from), describe(&to));
    });
}

/// A copy is S3's affair in the engine, and leaves modes, owners, times, attributes and device numbers behind; `cp` and `mv` bring them, `mv` before the source goes.
#[test]
fn copies_and_moves_keep_what_posix_knows() {
    both_ways(|site| {
        let (from, to) = (site.place("from"), site.place("to"));
        std::fs::create_dir(&from).unwrap();
        plant(&from);
        // A copy of a tree has a file for each name.
        std::fs::remove_file(from.join("deep/second")).unwrap();
        std::fs::remove_file(from.join("zz-third")).unwrap();
        let stamp = ["-d", "2030-01-01T00:00:00.5Z"];
        assert!(Command::new("touch").args(stamp).arg(from.join("deep")).status().unwrap().success());
        // Neither every file system nor every user can.
        let _ = rustix::fs::setxattr(from.join("plain"), "user.colour", b"red", rustix::fs::XattrFlags::empty());
        let _ = std::os::unix::fs::chown(from.join("plain"), Some(1234), Some(4321));
        let has_device = Command::new("mknod").arg(from.join("null")).args(["c", "1", "3"]).status().unwrap().success();
        site.run(&["import", text(&from), &format!("{BUCKET}/tree")]).ok();
        site.run(&["bucket", "create", "Test/lab/other"]).ok();
        site.run(&["cp", "-r", &format!("{BUCKET}/tree"), "Test/lab/other/copy"]).ok();
        site.run(&["export", "Test/lab/other/copy", text(&to)]).ok();
        assert_eq!(describe(&from), describe(&to));

        let known = |path: &str| {
            let stat = site.json(&["stat", path]);
            ["type", "mode", "uid", "gid", "rdev", "time", "xattrs"].map(|field| stat[field].clone())
        };
        for name in ["plain", "deep/run", "pipe", "dangling", "null"] {
            if name == "null" && !has_device {
                continue;
            }
            let (source, copy) = (format!("{BUCKET}/tree/{name}"), format!("{BUCKET}/copy-of-{name}"));
            let (before, moved) = (known(&source), format!("Test/lab/other/moved/{name}"));
            let printed = site.json(&["cp", &source, &copy]);
            assert_eq!((&printed["mode"], &printed["time"]), (&before[1], &before[5]), "{name}");
            assert_eq!(known(&copy), before, "{name}");
            site.run(&["mv", &source, &moved]).ok();
            assert_eq!(known(&moved), before, "{name}");
            site.run(&["stat", &source]).fails(3, name);
        }
    });
}

/// What S3 alone knows has no mode and no owner: a copy over a file that has some took them away.
#[test]
fn a_copy_of_what_has_no_attributes_leaves_those_that_are_there() {
    let site = Site::new();
    let from = site.place("from");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("env"), b"old").unwrap();
    std::fs::set_permissions(from.join("env"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    site.run(&["import", text(&from), &format!("{BUCKET}/kept")]).ok();
    site.put("in/env", "new");
    for _ in 0..2 {
        site.run(&["cp", "-r", &format!("{BUCKET}/in"), &format!("{BUCKET}/kept")]).ok();
        assert_eq!(site.get("kept/env"), "new");
        assert_eq!(site.json(&["stat", &format!("{BUCKET}/kept/env")])["mode"], "0600");
    }
}

/// Two names of one file became two files: what is stored under one name must not show under the other, be it content or attributes.
#[test]
fn names_that_part_here_part_in_the_bucket() {
    both_ways(|site| {
        let from = site.place("from");
        std::fs::create_dir(&from).unwrap();
        let (a, b) = (from.join("a"), from.join("b"));
        let node = |key: &str| site.json(&["stat", &format!("{BUCKET}/{key}")])["node"].clone();
        let comes_back = |name: &str| {
            let to = site.place(name);
            site.run(&["export", BUCKET, text(&to)]).ok();
            assert_eq!(describe(&from), describe(&to), "{name}");
        };
        std::fs::write(&a, b"one").unwrap();
        std::fs::hard_link(&a, &b).unwrap();
        site.run(&["import", text(&from), BUCKET]).ok();
        assert_eq!(node("a"), node("b"));
        std::fs::remove_file(&b).unwrap();
        std::fs::write(&b, b"two, and longer").unwrap();
        site.run(&["import", text(&from), BUCKET]).ok();
        assert_eq!((site.get("a").as_str(), site.get("b").as_str()), ("one", "two, and longer"));
        comes_back("parted");

        std::fs::remove_file(&b).unwrap();
        std::fs::hard_link(&a, &b).unwrap();
        site.run(&["import", text(&from), BUCKET]).ok();
        assert_eq!(node("a"), node("b"));
        comes_back("joined");

        // Two files that differ in nothing but their modes.
        std::fs::remove_file(&b).unwrap();
        std::fs::write(&b, b"one").unwrap();
        assert!(Command::new("touch").arg("-r").arg(&a).arg(&b).status().unwrap().success());
        std::fs::set_permissions(&b, std::fs::Permissions::from_mode(0o600)).unwrap();
        site.run(&["import", text(&from), BUCKET]).ok();
        assert_ne!(node("a"), node("b"));
        comes_back("alike");

        // The same, where both have as many names as the one has in the bucket.
        std::fs::hard_link(&a, from.join("a2")).unwrap();
        std::fs::remove_file(&b).unwrap();
        std::fs::hard_link(&a, &b).unwrap();
        site.run(&["import", text(&from), BUCKET]).ok();
        std::fs::remove_file(from.join("a2")).unwrap();
        site.run(&["rm", &format!("{BUCKET}/a2")]).ok();
        std::fs::remove_file(&b).unwrap();
        std::fs::write(&b, b"one").unwrap();
        assert!(Command::new("touch").arg("-r").arg(&a).arg(&b).status().unwrap().success());
        std::fs::hard_link(&a, from.join("c")).unwrap();
        std::fs::hard_link(&b, from.join("d")).unwrap();
        site.run(&["import", text(&from), BUCKET]).ok();
        assert_ne!(node("a"), node("b"));
        comes_back("crossed");
    });
}

/// A name that another file takes was deleted first: in between, and for good where that was the end, it was missing. Where versions are kept that shows.
#[test]
fn no_name_is_missing_while_its_file_changes() {
    both_ways(|site| {
        site.run(&["bucket", "set", BUCKET, "versioning=on"]).ok();
        let from = site.place("from");
        std::fs::create_dir(&from).unwrap();
        let (a, b) = (from.join("a"), from.join("b"));
        std::fs::write(&a, b"one").unwrap();
        std::fs::hard_link(&a, &b).unwrap();
        let import = || site.run(&["import", text(&from), BUCKET]).ok();
        import();
        std::fs::remove_file(&b).unwrap();
        std::fs::write(&b, b"two, and longer").unwrap();
        import();
        assert_eq!((site.get("a").as_str(), site.get("b").as_str()), ("one", "two, and longer"));
        std::fs::remove_file(&b).unwrap();
        std::fs::hard_link(&a, &b).unwrap();
        import();
        assert_eq!((site.get("a").as_str(), site.get("b").as_str()), ("one", "one"));
        let versions = site.json(&["versions", BUCKET]);
        let markers = versions.as_array().unwrap().iter().filter(|version| version["marker"] == true);
        assert_eq!(markers.count(), 0, "{versions}");
    });
}

/// A file that is moved over one of several names of another took the place of that file's content, under all its names.
#[test]
fn a_move_between_buckets_takes_one_name() {
    both_ways(|site| {
        let from = site.place("from");
        std::fs::create_dir(&from).unwrap();
        std::fs::write(from.join("a"), b"one").unwrap();
        std::fs::hard_link(from.join("a"), from.join("b")).unwrap();
        site.run(&["import", text(&from), BUCKET]).ok();
        site.run(&["bucket", "create", "Test/lab/other"]).ok();
        site.feed(&["put", "-", "Test/lab/other/new"], b"new").ok();
        site.run(&["mv", "Test/lab/other/new", &format!("{BUCKET}/b")]).ok();
        assert_eq!((site.get("a").as_str(), site.get("b").as_str()), ("one", "new"));
    });
}

#[test]
fn only_content_tells_a_forged_time() {
    let site = Site::new();
    let from = site.place("from");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("f"), b"one").unwrap();
    let stamp = site.file("stamp", b"");
    let forge = || {
        let status = Command::new("touch").arg("-r").arg(&stamp).arg(from.join("f")).status();
        assert!(status.unwrap().success());
    };
    forge();
    site.run(&["import", text(&from), BUCKET]).ok();
    std::fs::write(from.join("f"), b"two").unwrap();
    forge();
    site.run(&["import", text(&from), BUCKET]).ok();
    assert_eq!(site.get("f"), "one");
    site.run(&["import", "--checksum", text(&from), BUCKET]).ok();
    assert_eq!(site.get("f"), "two");
}

#[test]
fn one_bad_name_does_not_hold_up_the_rest() {
    both_ways(|site| {
        let from = site.place("from");
        // Five levels of 250 bytes make a key of more than 1,024.
        let deep: std::path::PathBuf = std::iter::repeat_n("d".repeat(250), 5).collect();
        std::fs::create_dir_all(from.join(&deep)).unwrap();
        std::fs::write(from.join(&deep).join("f"), b"too deep").unwrap();
        std::fs::write(from.join("fine"), b"fine").unwrap();
        let ran = site.run(&["import", text(&from), BUCKET, "--json"]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains("1024"), "{}", ran.stderr);
        let summary: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert!(summary["errors"].as_u64().unwrap() >= 1);
        assert!(summary["failed"][0]["path"].as_str().unwrap().starts_with(text(&from)));
        assert_eq!(site.get("fine"), "fine");
    });
}

/// Keys come from anywhere; none of them may lead out of the directory that is exported to.
#[test]
fn no_key_leads_out_of_the_target() {
    both_ways(|site| {
        let (victim, to) = (site.place("victim"), site.place("to"));
        std::fs::create_dir(&victim).unwrap();
        let links = site.place("links");
        std::fs::create_dir(&links).unwrap();
        symlink(&victim, links.join("door")).unwrap();
        site.run(&["import", text(&links), BUCKET]).ok();
        for key in ["../out", "a/../../out", "door/in", "/root", "a//b", "./here", "fine"] {
            site.put(key, "x");
        }
        let ran = site.run(&["export", BUCKET, text(&to)]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
        assert!(!site.place("out").exists());
        assert_eq!(std::fs::read(to.join("fine")).unwrap(), b"x");
        assert!(ran.stderr.contains("tombolo get"), "{}", ran.stderr);
    });
}

/// An export that is killed can't take its temporary files away: the next one does, and an import does not take them for files.
#[test]
fn what_a_killed_export_left_is_swept_and_not_imported() {
    let site = Site::new();
    site.put("a/x", "x");
    let to = site.place("to");
    std::fs::create_dir_all(to.join("a")).unwrap();
    // No system numbers processes up to there.
    let left = format!(".tombolo-{}-0.part", i32::MAX);
    for dir in [&to, &to.join("a")] {
        std::fs::write(dir.join(&left), b"half").unwrap();
        let touched = Command::new("touch").args(["-d", "2001-01-01"]).arg(dir.join(&left)).status().unwrap();
        assert!(touched.success());
    }
    site.run(&["import", text(&to), BUCKET]).ok();
    assert!(!site.keys(BUCKET).iter().any(|key| key.contains(".part")), "{:?}", site.keys(BUCKET));
    site.run(&["export", BUCKET, text(&to)]).ok();
    assert!(!to.join(&left).exists() && !to.join("a").join(&left).exists());
}

#[test]
fn a_snapshot_is_exported_as_it_was() {
    let site = Site::new();
    site.put("a/x", "old");
    site.put("b", "b");
    site.run(&["snapshot", "create", BUCKET, "s"]).ok();
    site.put("a/x", "new");
    site.run(&["rm", &format!("{BUCKET}/b")]).ok();
    let to = site.place("to");
    site.run(&["export", BUCKET, text(&to), "--snapshot", "s"]).ok();
    assert_eq!(std::fs::read(to.join("a/x")).unwrap(), b"old");
    assert_eq!(std::fs::read(to.join("b")).unwrap(), b"b");
}

#[test]
fn what_is_not_there_is_said_at_once() {
    both_ways(|site| {
        let from = site.place("from");
        site.run(&["import", text(&from), BUCKET]).fails(3, "from");
        std::fs::create_dir(&from).unwrap();
        site.run(&["import", text(&from), "Test/lab/none"]).fails(3, "none");
        site.run(&["import", text(&site.file("file", b"")), BUCKET]).fails(2, "tombolo put");
        site.run(&["export", &format!("{BUCKET}/none"), text(&from)]).fails(3, "none");
        site.run(&["put", text(&from), BUCKET]).fails(2, "tombolo import");
    });
}

/// The segment's own directory, found inside the tree, is left out.
#[test]
fn a_segment_is_not_imported_into_itself() {
    let site = Site::new();
    site.file("beside", b"beside");
    let root = site.dir().parent().unwrap().to_path_buf();
    site.run(&["import", text(&root), BUCKET]).ok();
    let keys = site.keys(BUCKET);
    assert!(keys.contains(&"beside".to_string()));
    assert!(!keys.iter().any(|key| key.starts_with("data")), "{keys:?}");
}

/// A tree of explicit directories, more than one batch of them, goes completely.
#[test]
fn a_removed_tree_leaves_no_directory() {
    both_ways(|site| {
        let from = site.place("from");
        for number in 0..1100 {
            std::fs::create_dir_all(from.join(format!("{}/{number}/below", number % 7))).unwrap();
        }
        std::fs::write(from.join("3/10/below/file"), b"x").unwrap();
        site.run(&["import", text(&from), &format!("{BUCKET}/tree")]).ok();
        site.put("treetop", "stays");
        let removed = site.json(&["rm", "-r", &format!("{BUCKET}/tree")]);
        assert_eq!(removed["failed"], 0);
        assert_eq!(removed["removed"], 1 + 7 + 1100 * 2 + 1);
        assert_eq!(site.keys(BUCKET), ["treetop"]);
    });
}

/// Killed in the middle, the same command goes on; killed or not, no file is ever there in part.
#[test]
fn an_interrupted_import_is_resumed() {
    const FILES: usize = 3000;
    let site = Site::with_daemon();
    let (from, to) = (site.place("from"), site.place("to"));
    std::fs::create_dir(&from).unwrap();
    for number in 0..FILES {
        std::fs::write(from.join(format!("{number:04}")), format!("content of {number}")).unwrap();
    }
    let mut first = site.command(&["import", text(&from), BUCKET]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while site.keys(BUCKET).is_empty() {
        assert!(Instant::now() < deadline, "nothing is imported");
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let there = site.keys(BUCKET).len() as u64;
    let second = site.json(&["import", text(&from), BUCKET]);
    let (files, skipped) = (second["files"].as_u64().unwrap(), second["skipped"].as_u64().unwrap());
    assert_eq!(files + skipped, FILES as u64);
    assert!(skipped >= there && there > 0, "{there} were there, {skipped} skipped");
    site.run(&["export", BUCKET, text(&to)]).ok();
    assert_eq!(describe(&from), describe(&to));
}
