//! The suites that file systems are judged by, against a real mount: pjdfstest whole, fsx, and what fsx leaves out.
//!
//! `TOMBOLO_FSX_OPERATIONS` sets the length of each of fsx's runs, and of those beside it.

use std::fs;
use std::process::Command;
use tombolo_tests::command::{Finished, repository, run, tool};
use tombolo_tests::mount::Mounted;
use tombolo_tests::server::Site;

/// Cases that may not pass, with the reason.
const SKIPPED: &[(&str, &str)] = &[("link::link_count_max", "the suite asks pathconf(3), to which FUSE has no answer")];

const CONFIGURATION: &str = "\
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.01
allow_remount = true
expected_failures = []
[dummy_auth]
entries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]
";

/// What mount(8) calls to remount, since FUSE has a helper: the source's name, as a program.
const REMOUNT: &str = "#!/bin/sh\npoint=$1\nshift\nexec mount -i \"$@\" \"$point\"\n";

#[test]
fn pjdfstest_passes() {
    let site = Site::new();
    let scratch = site.scratch("suite");
    let helper = scratch.join("remount");
    fs::write(&helper, REMOUNT).unwrap();
    run(Command::new("chmod").arg("+x").arg(&helper)).success();
    let mounted = Mounted::start(&site, &format!("suid,dev,fsname={}", helper.display()));
    let tree = mounted.point().join("suite");
    fs::create_dir(&tree).unwrap();
    let configuration = scratch.join("pjdfstest.toml");
    fs::write(&configuration, CONFIGURATION).unwrap();
    let pjdfstest = |patterns: &[&str]| {
        let mut command = Command::new(tool("pjdfstest"));
        // Another file system, for what must not be linked or renamed across.
        command.arg("-c").arg(&configuration).arg("-p").arg(&tree).arg("-s").arg("/dev/shm").args(patterns);
        run(command.current_dir(&scratch))
    };
    // The suite leaves files open that it has removed; after those the kernel remounts nothing. So what remounts has a run of its own.
    let is_failed = |line: &&str| line.trim_end().ends_with("FAILED");
    let all = pjdfstest(&[]);
    let failed: Vec<_> = all.stdout.lines().filter(is_failed).filter(|line| !line.contains("erofs")).collect();
    assert!(failed.is_empty(), "{}\n{}", failed.join("\n"), all.stdout);
    let read_only = pjdfstest(&["erofs"]).success();
    assert_eq!(counts(&read_only).0, 13, "{read_only}");
    let (passed, skipped) = counts(&all.stdout);
    assert!(passed >= 384, "{passed} cases passed");
    assert_eq!(skipped, SKIPPED.len(), "{}", all.stdout);
    for line in all.stdout.lines().filter(|line| line.trim_end().ends_with("skipped")) {
        assert!(SKIPPED.iter().any(|(name, _)| line.starts_with(name)), "{line}");
    }
}

/// Cases that passed and were skipped, from the suite's summary.
fn counts(output: &str) -> (usize, usize) {
    let summary = output.lines().find(|line| line.starts_with("Summary:")).unwrap_or_else(|| panic!("{output}"));
    let count = |what: &str| {
        let words: Vec<_> = summary.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let at = words.iter().position(|word| *word == what).unwrap();
        words[at - 1].parse().unwrap()
    };
    (count("passed"), count("skipped"))
}

const FSX: &str = "\
flen = 1048576
[weights]
close_open = 1.0
read = 10.0
write = 10.0
mapread = 10.0
mapwrite = 10.0
truncate = 2.0
invalidate = 1.0
fsync = 1.0
fdatasync = 1.0
posix_fallocate = 1.0
punch_hole = 2.0
sendfile = 1.0
posix_fadvise = 1.0
copy_file_range = 2.0
";

fn operations() -> String {
    std::env::var("TOMBOLO_FSX_OPERATIONS").unwrap_or_else(|_| "10000".into())
}

fn fsx(options: &str, seeds: std::ops::Range<u32>) {
    let operations = operations();
    let site = Site::new();
    let mounted = Mounted::start(&site, options);
    let scratch = site.scratch("fsx");
    let configuration = scratch.join("fsx.toml");
    fs::write(&configuration, FSX).unwrap();
    for seed in seeds {
        let mut command = Command::new(tool("fsx"));
        command.arg("-f").arg(&configuration).arg("-P").arg(&scratch).args([
            "-N",
            &operations,
            "-S",
            &seed.to_string(),
        ]);
        let finished: Finished = run(command.arg(mounted.point().join(format!("file-{seed}"))));
        assert!(finished.code == Some(0), "seed {seed}: {}\n{}", finished.stdout, finished.stderr);
    }
}

#[test]
fn fsx_finds_nothing_with_write_back() {
    fsx("", 1..4);
}

#[test]
fn fsx_finds_nothing_without_write_back() {
    fsx("nowriteback", 4..6);
}

/// fsx has no `FALLOC_FL_ZERO_RANGE`.
fn zeroed_ranges(options: &str, seed: &str) {
    let site = Site::new();
    let mounted = Mounted::start(&site, options);
    let mut command = Command::new("python3");
    command.arg(repository().join("tests/clients/ranges.py")).arg(mounted.point().join("file"));
    run(command.args([seed, &operations()])).success();
}

#[test]
fn zeroed_ranges_are_zeros_with_write_back() {
    zeroed_ranges("", "1");
}

#[test]
fn zeroed_ranges_are_zeros_without_write_back() {
    zeroed_ranges("nowriteback", "2");
}
