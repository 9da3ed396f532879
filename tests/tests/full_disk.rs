//! A full disk: writes are refused with "no space", reads and deletes go on, collecting garbage gives space back, and
//! nothing that was acknowledged is lost.
//!
//! Each test mounts a small tmpfs, so it needs to be root (or able to `sudo` without a password).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use tombolo_core::{BucketPath, CreateOptions, OpenOptions, Segment};
use tombolo_tests::command::run;
use tombolo_tests::content::Content;
use tombolo_tests::door::{Door, EngineDoor, Failure, S3Door};
use tombolo_tests::server::Site;

/// A file system of its own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, mib: u32) -> SmallDisk {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={mib}m,mode=0777");
        run(as_root("mount").args(["-t", "tmpfs", "-o", &options, "tombolo-test"]).arg(at)).success();
        SmallDisk(at.to_path_buf())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, as a failing test may still have files open.
        run(as_root("umount").arg("--lazy").arg(&self.0));
    }
}

fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", program]);
    command
}

fn content(number: u64) -> Content {
    Content::new(number * 4 + 1, 3 << 20)
}

fn key(number: u64) -> Vec<u8> {
    format!("object-{number:04}").into_bytes()
}

#[test]
fn the_s3_door_on_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&dir.path().join("disk"), 768);
    let site = Site::below(&disk.0);
    let mut server = site.serve();
    let mut door = S3Door::open(server.client(), "bucket").unwrap();
    let mut stored = 0;
    let refusal = loop {
        match door.put(&key(stored), content(stored), false) {
            Ok(_) => stored += 1,
            Err(Failure::Refused(answer)) => break answer,
            Err(other) => panic!("object {stored}: {other}"),
        }
        assert!(stored < 300, "900 MiB fit on a disk of 768 MiB");
    };
    assert!(stored > 20, "only {stored} objects fitted");
    assert!(refusal.starts_with("507") || refusal.starts_with("503"), "{refusal}");

    // The command line says the same, with its own code.
    let file = dir.path().join("file");
    std::fs::write(&file, Content::new(1, 64 << 20).bytes()).unwrap();
    let put = run(&mut site.command(&["put", &file.to_string_lossy(), "Test/lab/bucket/more"])).exits(1);
    assert!(put.stderr.contains("disk"), "{}", put.stderr);

    // A restart on the full disk changes nothing.
    server.stop();
    server = site.serve();
    door = S3Door::open(server.client(), "bucket").unwrap();
    for number in 0..stored {
        assert_eq!(door.read(&key(number), None).unwrap(), Some(content(number)), "reads go on");
    }
    assert_eq!(door.read(&key(stored), None).unwrap(), None, "what was refused is not there");
    // The oldest two thirds: packs that hold nothing else go without a rewrite, for which there may be no room.
    let kept = stored * 2 / 3;
    for number in 0..kept {
        door.delete(&[key(number)]).expect("deletes go on");
    }
    site.tombolo(&["gc"]);
    for number in 1000..1010 {
        door.put(&key(number), content(number), false).expect("there is space again");
    }
    for number in (kept..stored).chain(1000..1010) {
        assert_eq!(door.read(&key(number), None).unwrap(), Some(content(number)));
    }
    server.stop();
    site.tombolo(&["scrub"]);
    drop(disk);
}

/// Something else fills the disk to its last byte, reserve and all, while the engine writes: it says no, loses nothing, and
/// goes on once there is room.
#[test]
fn the_engine_when_something_else_fills_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&dir.path().join("disk"), 384);
    let data = disk.0.join("data");
    let path = BucketPath::new("Test", "lab", "bucket").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let create = CreateOptions { name: "test".into(), cluster: "Test".into() };
    let segment = runtime.block_on(Segment::create(&data, create, OpenOptions::default())).unwrap();
    let mut door = EngineDoor::open(runtime.handle(), &segment, &path).unwrap();
    for number in 0..20 {
        door.put(&key(number), content(number), false).unwrap();
    }
    let filler = disk.0.join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[0x5a; 64 << 10]).is_ok() {}
    drop(file);
    let refusal = door.put(&key(20), content(20), false);
    assert!(matches!(&refusal, Err(Failure::Refused(what)) if what.starts_with("NoSpace")), "{refusal:?}");
    for number in 0..20 {
        assert_eq!(door.read(&key(number), None).unwrap(), Some(content(number)), "reads go on");
    }
    drop(door);
    std::fs::remove_file(filler).unwrap();
    // Whether or not closing can still write everything, nothing acknowledged may hang on it.
    let _ = runtime.block_on(segment.close());
    drop(segment);

    let segment = runtime.block_on(Segment::open(&data, OpenOptions::default())).unwrap();
    let mut door = EngineDoor::open(runtime.handle(), &segment, &path).unwrap();
    assert_eq!(door.read(&key(20), None).unwrap(), None, "what was refused is not there");
    door.put(&key(20), content(20), false).expect("there is room again");
    for number in 0..21 {
        assert_eq!(door.read(&key(number), None).unwrap(), Some(content(number)));
    }
    let report = runtime.block_on(segment.scrub(0, |_, _| {})).unwrap();
    assert_eq!(report.damage, Vec::<String>::new());
}
