//! A full disk: writes are refused with "no space", reads and deletes go on, collecting garbage gives space back, and
//! nothing that was acknowledged is lost.
//!
//! Each test mounts a small tmpfs, so it needs to be root (or able to `sudo` without a password).

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tombolo_core::{BucketPath, CreateOptions, OpenOptions, Segment};
use tombolo_tests::command::run;
use tombolo_tests::content::Content;
use tombolo_tests::door::{Door, EngineDoor, Failure, S3Door};
use tombolo_tests::mount::Mounted;
use tombolo_tests::nfs::Nfs;
use tombolo_tests::server::{Site, free_port};

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

/// Files that are open through FUSE and NFS while the disk fills up: fsync and COMMIT say so, what they said before is kept, and everything goes on
/// when there is room.
#[test]
fn open_files_on_a_full_disk() {
    const FULL: [i32; 2] = [28, 122];
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&dir.path().join("disk"), 512);
    let site = Site::below(&disk.0);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut mounted = Mounted::start_with(&site, "nowriteback", &["--nfs", &address.to_string()]);
    let point = mounted.point().to_owned();
    let small = |seed: u64| Content::new(seed, 700_000);

    let mut nfs = Nfs::connect(address);
    let root = nfs.mount("/Test/lab/bucket").unwrap();
    let far = nfs.create(&root, "far", 0o644).unwrap();
    let commit = |nfs: &mut Nfs, far: &[u8], content: Content| -> Result<(), u32> {
        let before = nfs.write(far, 0, &content.bytes(), 0)?;
        if nfs.commit(far)? == before { Ok(()) } else { Err(0) }
    };
    commit(&mut nfs, &far, small(1)).unwrap();
    let kept = File::options().create(true).truncate(false).read(true).write(true).open(point.join("kept")).unwrap();
    let save = |content: Content| kept.write_all_at(&content.bytes(), 0).and_then(|()| kept.sync_all());
    save(small(1)).unwrap();

    let mut stored = 0;
    let refusal = loop {
        let name = point.join(format!("object-{stored}"));
        let written = File::create(name).and_then(|mut file| {
            file.write_all(&content(stored).bytes())?;
            file.sync_all()
        });
        match written {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 200, "600 MB fit on a disk of 512 MiB");
    };
    assert!(stored > 10 && FULL.contains(&refusal.raw_os_error().unwrap()), "{stored} files, then {refusal}");
    // What is smaller may still fit for a while. The last that was said to be kept counts.
    let (mut of_mount, mut of_nfs) = ([1, 1], [1, 1]);
    let refusal = (2..1000).find_map(|seed| match save(small(seed)) {
        Ok(()) => {
            of_mount = [seed, seed + 1];
            None
        }
        Err(error) => Some(error),
    });
    assert!(FULL.contains(&refusal.unwrap().raw_os_error().unwrap()));
    let refusal = (2..1000).find_map(|seed| match commit(&mut nfs, &far, small(seed)) {
        Ok(()) => {
            of_nfs = [seed, seed + 1];
            None
        }
        Err(status) => Some(status),
    });
    assert!(matches!(refusal, Some(28 | 69)), "{refusal:?}");
    for number in 0..stored {
        assert!(
            std::fs::read(point.join(format!("object-{number}"))).unwrap() == content(number).bytes(),
            "reads go on"
        );
    }

    // The process ends with unsaved bytes in hand, and starts on the full disk.
    mounted.kill();
    drop(kept);
    mounted.serve(&site);
    for (name, seeds) in [("kept", of_mount), ("far", of_nfs)] {
        // Or what was refused, but whole: it may have been put where a crash does not reach it.
        let found = std::fs::read(point.join(name)).unwrap();
        assert!(seeds.iter().any(|seed| found == small(*seed).bytes()), "{name} is not what was acknowledged");
    }
    for number in 0..stored * 2 / 3 {
        std::fs::remove_file(point.join(format!("object-{number}"))).expect("deletes go on");
    }
    site.tombolo(&["gc"]);
    let mut file = File::create(point.join("kept")).unwrap();
    file.write_all(&small(5000).bytes()).unwrap();
    file.sync_all().expect("there is room again");
    let mut nfs = Nfs::connect(address);
    commit(&mut nfs, &far, small(5001)).expect("there is room again");
    for number in stored * 2 / 3..stored {
        assert!(std::fs::read(point.join(format!("object-{number}"))).unwrap() == content(number).bytes());
    }
    assert!(std::fs::read(point.join("far")).unwrap() == small(5001).bytes());
    mounted.stop();
    site.tombolo(&["scrub"]);
    drop(disk);
}
