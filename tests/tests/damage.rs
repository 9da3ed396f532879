//! P3 through the real door: damaged packs give errors of their own, never other bytes, and harm nothing else; scrub finds it all.
//!
//! The tests know nothing of the pack format. They store contents that do not compress, find those bytes in the files of the
//! stopped segment, and damage them there.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tombolo_tests::command::run;
use tombolo_tests::content::Content;
use tombolo_tests::door::{Door, Failure, S3Door};
use tombolo_tests::server::Site;

/// Objects in each of the two packs.
const OBJECTS: u64 = 6;

fn content(number: u64) -> Content {
    // Not a multiple of four: those seeds give contents that compress.
    Content::new(number * 4 + 1, 1 << 20)
}

/// No chunk of these contents is shorter, but for the last.
const CHUNK_BYTES_MIN: usize = 16 << 10;

fn key(number: u64) -> Vec<u8> {
    format!("object-{number}").into_bytes()
}

/// A stopped segment with objects 0 to 5 in one pack and 6 to 11 in another, each server run writing packs of its own.
fn stored() -> Site {
    let site = Site::new();
    for run in 0..2 {
        let server = site.serve();
        let mut door = S3Door::open(server.client(), "bucket").unwrap();
        for number in run * OBJECTS..(run + 1) * OBJECTS {
            door.put(&key(number), content(number), false).unwrap();
        }
        server.stop();
    }
    site
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found
}

/// The file below the data directory that holds the middle of an object, and where in it.
fn place(site: &Site, number: u64) -> (PathBuf, u64) {
    let bytes = content(number).bytes();
    let needle = &bytes[bytes.len() / 2..bytes.len() / 2 + 64];
    for path in files(&site.dir()) {
        let data = fs::read(&path).unwrap();
        if let Some(at) = data.windows(needle.len()).position(|window| window == needle) {
            return (path, at as u64);
        }
    }
    panic!("object {number} lies in no file: is it stored compressed?");
}

/// The objects of which something lies in no file any more. The chunks of one object may lie in several packs, as several are appended to side by side: so a sample of each chunk
/// is looked for, and the end.
fn lost(site: &Site) -> Vec<u64> {
    const SAMPLE_BYTES: usize = 16;
    let mut missing: HashMap<Vec<u8>, u64> = HashMap::new();
    for number in 0..2 * OBJECTS {
        let bytes = content(number).bytes();
        let starts = (0..bytes.len()).step_by(CHUNK_BYTES_MIN).chain([bytes.len() - SAMPLE_BYTES]);
        missing.extend(starts.map(|at| (bytes[at..at + SAMPLE_BYTES].to_vec(), number)));
    }
    for path in files(&site.dir()) {
        for window in fs::read(path).unwrap().windows(SAMPLE_BYTES) {
            missing.remove(window);
        }
    }
    missing.into_values().collect::<BTreeSet<_>>().into_iter().collect()
}

/// Reads every object through S3 and the command line: `damaged` ones must fail on both with an error of their own, the
/// others must be whole. Then scrub must name every damaged object and exit with 5.
fn only_these_are_damaged(site: &Site, damaged: &[u64]) {
    let server = site.serve();
    let mut door = S3Door::open(server.client(), "bucket").unwrap();
    let listed = tombolo_tests::model::list_all(&mut door, b"", None, None, 1000).unwrap();
    assert_eq!(listed.len() as u64, 2 * OBJECTS, "every name is still there");
    for number in 0..2 * OBJECTS {
        let mut door = S3Door::open(server.client(), "bucket").unwrap();
        let read = door.read(&key(number), None);
        let path = format!("Test/lab/bucket/object-{number}");
        let target = site.scratch("get").join(number.to_string());
        let got = run(&mut site.command(&["get", &path, &target.to_string_lossy()]));
        if damaged.contains(&number) {
            // An error status, or a body that stops short because the head was on its way already: never a whole answer.
            match read {
                Err(Failure::Refused(answer)) => {
                    assert!(answer.starts_with("500"), "{path}: {answer}")
                }
                Err(Failure::Unknown(_)) => {}
                other => panic!("{path} is damaged, and reading it gave {other:?}"),
            }
            let got = got.exits(5);
            assert!(got.stderr.contains(&format!("object-{number}")), "the object is not named: {}", got.stderr);
        } else {
            assert_eq!(read.unwrap(), Some(content(number)), "{path}");
            got.success();
            assert!(fs::read(&target).unwrap() == content(number).bytes(), "{path}");
        }
    }
    let scrub = run(&mut site.command(&["scrub"])).exits(5);
    for number in 0..2 * OBJECTS {
        let is_named = scrub.stdout.split_whitespace().any(|word| word.ends_with(&format!("/object-{number}")));
        assert_eq!(is_named, damaged.contains(&number), "object-{number} in scrub's report:\n{}", scrub.stdout);
    }
    // New work goes on beside the damage, and writing a damaged object again mends it.
    for &number in damaged {
        door.put(&key(number), content(number), false).unwrap();
        assert_eq!(door.read(&key(number), None).unwrap(), Some(content(number)), "written again");
    }
    server.stop();
}

#[test]
fn an_undamaged_segment_scrubs_clean() {
    let site = stored();
    run(&mut site.command(&["scrub"])).success();
}

#[test]
fn a_flipped_byte() {
    let site = stored();
    let (path, at) = place(&site, 2);
    let mut file = fs::File::options().read(true).write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    let mut byte = [0];
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 0x10]).unwrap();
    drop(file);
    only_these_are_damaged(&site, &[2]);
}

#[test]
fn a_truncated_pack() {
    let site = stored();
    let (path, at) = place(&site, 3);
    fs::File::options().write(true).open(&path).unwrap().set_len(at).unwrap();
    // Whatever lies in that file behind the cut is gone; what lies before it, or in another, is not.
    let damaged = lost(&site);
    assert!(damaged.contains(&3) && damaged.len() < 2 * OBJECTS as usize, "{damaged:?}");
    only_these_are_damaged(&site, &damaged);
}

#[test]
fn a_deleted_pack() {
    let site = stored();
    let (path, _) = place(&site, 0);
    fs::remove_file(path).unwrap();
    let damaged = lost(&site);
    assert!(damaged.contains(&0) && damaged.len() < 2 * OBJECTS as usize, "{damaged:?}");
    only_these_are_damaged(&site, &damaged);
}
