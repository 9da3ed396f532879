//! What the kernel does by itself behind a real mount, and what it leaves to the door: pages that it has not written back, opening to truncate, directories that are gone.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::process::{Command, Stdio};
use tombolo_tests::command::run;
use tombolo_tests::content::Content;
use tombolo_tests::door::{Door, S3Door};
use tombolo_tests::mount::{BUCKET, KEPT, Mounted};
use tombolo_tests::server::Site;
use tombolo_tests::wait;

/// The kernel asks where a file has data without having written back what it has of it. `cp` made holes of what was on its way, and `grep` took such a file for
/// something else than text.
#[test]
fn what_is_not_written_back_is_data() {
    let site = Site::new();
    let mounted = Mounted::start(&site, "");
    let root = mounted.point();
    let (log, content) = (root.join("log"), Content::new(1, 300_000).bytes());
    let mut file = File::create(&log).unwrap();
    for (number, part) in content.chunks(50_000).enumerate() {
        file.write_all(part).unwrap();
        let end = (number + 1) * 50_000;
        assert_eq!(rustix::fs::seek(File::open(&log).unwrap(), rustix::fs::SeekFrom::Hole(0)).unwrap(), end as u64);
        let copy = root.join(format!("copy-{number}"));
        run(Command::new("cp").arg("--sparse=auto").arg(&log).arg(&copy)).success();
        assert!(fs::read(&copy).unwrap() == content[..end], "after {end} bytes");
    }
    file.write_all(&vec![b'a'; 200_000]).unwrap();
    drop(file);
    // A hole is one still.
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    assert_eq!(rustix::fs::seek(&sparse, rustix::fs::SeekFrom::Hole(0)).unwrap(), 0);
    assert!(rustix::fs::seek(&sparse, rustix::fs::SeekFrom::Data(0)).is_err());
}

/// The kernel empties its own idea of a file that is opened with O_TRUNC, and asks for no more than that the door does it too.
#[test]
fn opening_for_reading_can_truncate() {
    let site = Site::new();
    let mounted = Mounted::start(&site, KEPT);
    let path = mounted.point().join("f");
    fs::write(&path, Content::new(1, 100_000).bytes()).unwrap();
    let truncate = rustix::fs::OFlags::TRUNC.bits() as i32;
    drop(File::options().read(true).custom_flags(truncate).open(&path).unwrap());
    let mut file = File::options().write(true).open(&path).unwrap();
    file.write_all(b"new").unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    let mut door = S3Door::open(mounted.server().client(), BUCKET).unwrap();
    assert_eq!(door.read_range(b"f", 0..3).unwrap(), b"new");
    assert_eq!(rustix::fs::stat(&path).unwrap().st_size, 3);
}

/// Whoever still was in a directory that was removed kept the one that was made in its place from taking anything, for everybody.
#[test]
fn a_directory_that_is_made_again_works_while_somebody_is_in_the_old_one() {
    let site = Site::new();
    let mounted = Mounted::start(&site, "");
    let build = mounted.point().join("build");
    let remake = |way: &str| match way {
        "rmdir" => {
            fs::remove_dir_all(&build).unwrap();
            fs::create_dir(&build).unwrap();
        }
        _ => {
            let aside = mounted.point().join("aside");
            fs::create_dir(&aside).unwrap();
            fs::remove_dir_all(build.join("sub")).unwrap();
            fs::rename(&aside, &build).unwrap();
            fs::remove_dir(&build).unwrap();
            fs::create_dir(&build).unwrap();
        }
    };
    for way in ["rmdir", "rename", "rmdir"] {
        fs::create_dir_all(build.join("sub")).unwrap();
        let mut shell = Command::new("cat").current_dir(&build).stdin(Stdio::piped()).spawn().unwrap();
        let before = fs::metadata(&build).unwrap().ino();
        remake(way);
        fs::write(build.join("x"), "x").unwrap();
        fs::create_dir(build.join("y")).unwrap();
        let mut names: Vec<_> = fs::read_dir(&build).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["x", "y"]);
        assert_ne!(fs::metadata(&build).unwrap().ino(), before);
        drop(shell.stdin.take());
        assert!(shell.wait().unwrap().success());
        assert_eq!(fs::read(build.join("x")).unwrap(), b"x");
        fs::remove_dir_all(&build).unwrap();
    }
}

/// Who replaces a program over S3 must not get the privileges that it had.
#[test]
fn what_s3_writes_has_no_privileges() {
    let site = Site::new();
    let mounted = Mounted::start(&site, KEPT);
    let mut door = S3Door::open(mounted.server().client(), BUCKET).unwrap();
    for (mode, after) in [("4755", 0o755), ("6755", 0o755), ("2744", 0o2744), ("0640", 0o640)] {
        let path = mounted.point().join("program");
        fs::write(&path, "old").unwrap();
        run(Command::new("chmod").arg(mode).arg(&path)).success();
        door.put(b"program", Content::new(1, 10), false).unwrap();
        wait::until("the mount shows what S3 wrote", || (fs::metadata(&path).unwrap().len() == 10).then_some(()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, after, "{mode}");
        fs::remove_file(&path).unwrap();
    }
}
