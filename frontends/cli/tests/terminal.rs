//! What people see: commands whose standard error is a terminal.
//!
//! Every command once panicked there, and nowhere else, because the log wanted colours that were not compiled in.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test panics when something is not as it must be"
)]

mod site;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use site::{BUCKET, Site};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

/// Runs a command with a terminal as standard output and error; gives its exit code and what the terminal showed.
fn on_terminal(site: &Site, args: &[&str]) -> (i32, String) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
    let terminal = File::options().read(true).write(true).open(path).unwrap();
    let mut command = site.command(args);
    command.env("TERM", "xterm").stdin(Stdio::null()).stdout(terminal.try_clone().unwrap()).stderr(terminal);
    let mut child = command.spawn().unwrap();
    // Only the child holds the terminal now, so that reading ends with it.
    drop(command);
    let mut shown = Vec::new();
    let mut master = File::from(master);
    let mut piece = [0; 4096];
    // Linux reports the end of a terminal as an error.
    while let Ok(length @ 1..) = master.read(&mut piece) {
        shown.extend_from_slice(&piece[..length]);
    }
    (child.wait().unwrap().code().unwrap_or(-1), String::from_utf8_lossy(&shown).into_owned())
}

#[test]
fn commands_work_on_a_terminal() {
    let site = Site::new();
    let from = site.place("from");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("a\x1b[31mb"), vec![7; 5_000_000]).unwrap();
    let (from, to) = (from.to_str().unwrap().to_string(), site.place("to").to_str().unwrap().to_string());
    for (args, words) in [
        (&["import", &from, BUCKET][..], "Imported: 1 files"),
        (&["ls", "-l", BUCKET], "a\\u{1b}[31mb"),
        (&["export", BUCKET, &to], "Exported: 1 files"),
        (&["put", &format!("{from}/a\x1b[31mb"), &format!("{BUCKET}/plain")], ""),
        (&["get", &format!("{BUCKET}/plain"), &format!("{to}/plain")], ""),
        (&["scrub"], "all is well"),
        (&["status"], "test"),
        (&["bucket", "list", "Test/lab"], "box"),
    ] {
        let (code, shown) = on_terminal(&site, args);
        assert_eq!(code, 0, "{args:?}: {shown}");
        assert!(shown.contains(words), "{args:?}: {shown}");
        assert!(!shown.contains("a\x1b[31mb"), "{args:?}: {shown}");
    }
    let (code, shown) = on_terminal(&site, &["stat", &format!("{BUCKET}/none")]);
    assert_eq!(code, 3, "{shown}");
    assert!(shown.contains("tombolo ls"), "{shown}");
    let (code, shown) = on_terminal(&site, &["status", "--log-level", "trace", "--log-format", "json"]);
    assert_eq!(code, 0, "{shown}");
}
