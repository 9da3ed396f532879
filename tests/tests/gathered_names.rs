//! An edge that gathers names, too (P4, P10, P11): what is dropped there goes out of sight when it is held elsewhere, through every door, and nothing of it is lost.

use std::io::{ErrorKind, Write};
use std::path::Path;
use tombolo_tests::linked::{BUCKET, LinkedSite, noise};
use tombolo_tests::mount::KEPT;
use tombolo_tests::s3::Request;
use tombolo_tests::wait;

fn path(key: &str) -> String {
    format!("{BUCKET}/{key}")
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_missing(path: &Path) -> bool {
    std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// What is written through a mount is seen there no more when the centre holds it, though the kernel keeps names for a day, nor over S3 or by `ls`. It comes back when it is
/// recalled, when somebody writes to it, and when gathering names ends.
#[test]
fn what_is_dropped_at_the_edge_goes_out_of_sight_and_comes_back() {
    let mut centre = LinkedSite::new("centre", "SanFrancisco");
    let mut edge = LinkedSite::new("edge", "NewYork");
    centre.tombolo(&["tenant", "create", "SanFrancisco/lab"]);
    centre.tombolo(&["bucket", "create", BUCKET]);
    centre.serve();
    edge.serve();
    let invite = centre.json(&["link", "invite"]);
    edge.tombolo(&["link", "accept", invite["code"].as_str().unwrap(), "--mode", "gather"]);
    edge.catch_up();
    edge.stop();
    let point = edge.beside("mnt");
    std::fs::create_dir(&point).unwrap();
    let mount = format!("{BUCKET}={}", point.display());
    edge.serve_with(&["--link", "127.0.0.1:0", "--mount", &mount, "--mount-options", KEPT]);

    let inbox = point.join("inbox");
    wait::until("the mount", || std::fs::create_dir(&inbox).ok());
    let content = noise(1, 2 << 20);
    std::fs::write(inbox.join("one"), &content).unwrap();
    std::fs::write(inbox.join("two"), b"two").unwrap();
    std::fs::write(inbox.join("three"), &content[..100_000]).unwrap();
    assert_eq!(names(&inbox), ["one", "three", "two"]);
    edge.tombolo(&["link", "set", "centre", "gather-delay=0s", "gather-names=on"]);
    wait::until("an empty inbox", || names(&inbox).is_empty().then_some(()));
    wait::until("the kernel to forget", || is_missing(&inbox.join("one")).then_some(()));
    // They stay from now on if they are asked for.
    edge.tombolo(&["link", "set", "centre", "gather-delay=1h"]);
    let mut client = edge.s3(edge.user());
    let mut status = |method: &str, key: &str, body: &[u8]| {
        let path = format!("/data/{key}");
        let request = Request { method, path: path.as_bytes(), body, ..Request::default() };
        client.send(&request).unwrap().status
    };
    assert_eq!((status("HEAD", "inbox/one", b""), status("GET", "inbox/two", b"")), (404, 404));
    assert_eq!(edge.keys(BUCKET), ["inbox/"]);
    assert_eq!(edge.run(&["stat", &path("inbox/one")]).code, Some(3));
    assert_eq!(std::fs::remove_dir(&inbox).unwrap_err().raw_os_error(), Some(39), "it would be a deletion elsewhere");
    centre.catch_up();
    assert_eq!(centre.keys(BUCKET), ["inbox/", "inbox/one", "inbox/three", "inbox/two"]);
    assert!(centre.get(&path("inbox/one")) == content);

    let listed = edge.json(&["ls", "--all", &path("inbox/")]);
    let away = listed.as_array().unwrap().iter().filter(|item| item["away"] == true).count();
    assert_eq!(away, 3, "{listed}");
    assert_eq!(edge.json(&["ls", "--all", &path("inbox/two")])[0]["away"], true);
    assert!(edge.tombolo(&["ls", "-l", "--all", &path("inbox")]).contains(" away "));
    assert_eq!(edge.json(&["sync", "status"])["buckets"][0]["away_objects"], 3);
    assert_eq!(edge.metric(&format!("tombolo_sync_away_objects{{bucket=\"{BUCKET}\"}}")), Some(3.0));
    assert_eq!(edge.run(&["sync", "verify"]).code, Some(0), "registers are the same");

    assert_eq!(edge.json(&["sync", "recall", &path("inbox/one")])["recalled"], 1);
    // The kernel hears of it a little later.
    wait::until("the name that was recalled", || (names(&inbox) == ["one"]).then_some(()));
    let read = wait::until("what was recalled", || std::fs::read(inbox.join("one")).ok());
    assert!(read == content);
    // Who opens it to write, opens what is there.
    let mut two = std::fs::File::options().create(true).append(true).open(inbox.join("two")).unwrap();
    two.write_all(b" and more").unwrap();
    drop(two);
    assert_eq!(std::fs::read(inbox.join("two")).unwrap(), b"two and more");
    assert_eq!(names(&inbox), ["one", "two"]);
    wait::until("the change at the centre", || (centre.get(&path("inbox/two")) == b"two and more").then_some(()));
    edge.tombolo(&["link", "set", "centre", "gather-names=off"]);
    wait::until("all names", || (names(&inbox) == ["one", "three", "two"]).then_some(()));
    assert_eq!(status("GET", "inbox/three", b""), 200);
    assert_eq!(edge.json(&["sync", "status"])["buckets"][0]["away_objects"], 0);
    assert_eq!(centre.json(&["sync", "conflicts", "list"]).as_array().unwrap().len(), 0);
    edge.stop();
}
