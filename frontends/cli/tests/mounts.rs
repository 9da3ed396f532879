//! `mount` where no daemon runs: the process that becomes one, and what others ask of it. Needs root and FUSE.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test panics when something is not as it must be"
)]

mod site;

use site::{BUCKET, Site};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "still waiting: {what}");
        std::thread::yield_now();
    }
}

fn is_mounted(point: &Path) -> bool {
    std::fs::read_to_string("/proc/mounts").unwrap().contains(point.to_str().unwrap())
}

/// A `tombolo mount` in the foreground. Killed, and its place unmounted, when dropped.
struct Mounting {
    child: Child,
    point: PathBuf,
    log: PathBuf,
}

impl Mounting {
    fn start(site: &Site, name: &str) -> Mounting {
        let (point, log) = (site.place(name), site.place(&format!("{name}.log")));
        std::fs::create_dir_all(&point).unwrap();
        let mut command = site.command(&["mount", BUCKET, point.to_str().unwrap(), "--log-level", "info"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Mounting { child: command.spawn().unwrap(), point, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn wait_until_mounted(&mut self) {
        until("the mount", || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none_or(|status| status.success()), "{ended:?}: {}", self.log());
            is_mounted(&self.point).then_some(())
        });
    }

    fn unmount(&self, site: &Site) {
        site.run(&["umount", self.point.to_str().unwrap()]).ok();
    }

    fn ends_well(&mut self) {
        let status = until("the process to end", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Mounting {
    fn drop(&mut self) {
        // Both may be over.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = Command::new("umount").arg("--lazy").arg(&self.point).output();
    }
}

/// The daemon of the first mount has others by and by. It used to take them all away with the first.
#[test]
fn a_daemon_that_only_mounts_ends_with_its_last_mount() {
    let site = Site::new();
    site.put("k", "kept");
    let mut first = Mounting::start(&site, "first");
    first.wait_until_mounted();
    let mut second = Mounting::start(&site, "second");
    second.ends_well();
    first.unmount(&site);
    let at = |log: &str, words: [&str; 2]| log.lines().position(|line| words.iter().all(|word| line.contains(word)));
    until("the end of the first mount", || at(&first.log(), ["unmounted", "/first"]));
    assert_eq!(std::fs::read(second.point.join("k")).unwrap(), b"kept");
    second.unmount(&site);
    first.ends_well();
    let log = first.log();
    let (last, stopped) = (at(&log, ["unmounted", "/second"]), at(&log, ["stopping", "nothing is mounted"]));
    assert!(last.is_some() && last < stopped, "{log}");
}

/// As at boot, from two lines of fstab: one of them becomes the daemon, and the other one asks it, whoever comes first.
#[test]
fn two_that_start_together_both_mount() {
    let site = Site::new();
    for _ in 0..5 {
        let mut both = ["one", "two"].map(|name| Mounting::start(&site, name));
        both.iter_mut().for_each(Mounting::wait_until_mounted);
        both.iter().for_each(|mounting| mounting.unmount(&site));
        both.iter_mut().for_each(Mounting::ends_well);
    }
}

/// Looked at before anything is tried: what is busy would be detached, whatever it is.
#[test]
fn only_what_is_mounted_is_unmounted() {
    let site = Site::new();
    let place = site.place("plain");
    std::fs::create_dir(&place).unwrap();
    site.run(&["umount", place.to_str().unwrap()]).fails(3, "nothing is mounted");
}
