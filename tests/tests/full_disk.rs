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
use tokio::runtime::Runtime;
use tombolo_core::{
    Bucket, BucketPath, BucketPolicy, Chunking, CreateOptions, ErrorKind, FileOptions, GetOptions, OpenFile,
    OpenOptions, Segment,
};
use tombolo_tests::blocks::Blocks;
use tombolo_tests::command::run;
use tombolo_tests::content::Content;
use tombolo_tests::door::{Door, EngineDoor, Failure, S3Door};
use tombolo_tests::mount::Mounted;
use tombolo_tests::nfs::Nfs;
use tombolo_tests::server::{Site, free_port};
use tombolo_tests::wait;

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

/// Fills a disk but for `left_bytes`.
fn fill(disk: &SmallDisk, left_bytes: u64) -> PathBuf {
    let path = disk.0.join("filler");
    let mut file = File::create(&path).unwrap();
    let piece = [0x5a; 64 << 10];
    loop {
        let found = rustix::fs::statvfs(&disk.0).unwrap();
        if found.f_bavail * found.f_frsize <= left_bytes || file.write_all(&piece).is_err() {
            return path;
        }
    }
}

/// A file of [`Blocks`] in a segment on a small disk, with chunks that are short enough for it to have many.
struct Fragmented {
    segment: Segment,
    bucket: Bucket,
    blocks: Blocks,
}

const BLOCKS: usize = 4096;

impl Fragmented {
    async fn create(data: &Path, path: &BucketPath) -> Fragmented {
        let create = CreateOptions { name: "test".into(), cluster: "Test".into() };
        let segment = Segment::create(data, create, OpenOptions::default()).await.unwrap();
        segment.catalog().create_tenant(&path.tenant).await.unwrap();
        let policy = BucketPolicy { chunking: Chunking::Content(64 << 10), ..BucketPolicy::default() };
        let bucket = segment.catalog().create_bucket(path, policy).await.unwrap();
        let file = bucket.open_file("fragmented", FileOptions::create()).await.unwrap();
        let blocks = Blocks::new(BLOCKS);
        for number in 0..BLOCKS {
            file.write_at(Blocks::offset(number), blocks.begin(number).into()).await.unwrap();
            blocks.written(number);
        }
        file.fsync().await.unwrap();
        (0..BLOCKS).for_each(|number| blocks.saved(number));
        Fragmented { segment, bucket, blocks }
    }

    async fn open(&self) -> OpenFile {
        self.bucket.open_file("fragmented", FileOptions::create()).await.unwrap()
    }

    /// Writes blocks and has that saved.
    async fn write(&self, file: &OpenFile, numbers: &[usize]) -> tombolo_core::Result<()> {
        for number in numbers {
            file.write_at(Blocks::offset(*number), self.blocks.begin(*number).into()).await?;
            self.blocks.written(*number);
        }
        file.fsync().await?;
        numbers.iter().for_each(|number| self.blocks.saved(*number));
        Ok(())
    }

    async fn object(&self) -> Vec<u8> {
        let object = self.bucket.get("fragmented", GetOptions::default()).await.unwrap();
        object.bytes(0..u64::MAX).await.unwrap().to_vec()
    }

    /// Opens what is on the disk at this instant, as another process would find it: all is there, nothing is damaged, and the file can be written to and is cut anew.
    fn opened_after_a_crash(&self, runtime: &Runtime, place: &Path, when: &str) {
        let copy = place.join("copy");
        run(Command::new("cp").arg("-r").arg(self.segment.dir()).arg(&copy)).success();
        let segment = runtime.block_on(Segment::open(&copy, OpenOptions::default())).unwrap();
        let bucket = runtime.block_on(segment.bucket(self.bucket.path())).unwrap();
        let there = Fragmented { segment, bucket, blocks: Blocks::new(0) };
        self.blocks.survived(&runtime.block_on(there.object()), when);
        let report = runtime.block_on(there.segment.scrub(0, |_, _| {})).unwrap();
        assert_eq!(report.damage, Vec::<String>::new(), "{when}");
        let there = Fragmented { blocks: Blocks::with(&runtime.block_on(there.object())), ..there };
        let file = runtime.block_on(there.open());
        let some: Vec<usize> = (1..BLOCKS).step_by(2).collect();
        runtime.block_on(there.write(&file, &some)).unwrap();
        wait::until("it to be cut anew", || (there.figure("tombolo_recut_extents_total") >= 2000.0).then_some(()));
        assert!(runtime.block_on(there.object()) == there.blocks.all(), "{when}: cut anew");
    }

    fn figure(&self, name: &str) -> f64 {
        self.segment.metrics().into_iter().find(|metric| metric.0 == name).unwrap().3
    }
}

/// With little space left a file that is written to in pieces is not cut anew, which nobody notices; when there is room again that is done, though nobody writes to it any more.
/// It used to be forgotten.
#[test]
fn a_fragmented_file_waits_for_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&dir.path().join("disk"), 512);
    let path = BucketPath::new("Test", "lab", "bucket").unwrap();
    let runtime = Runtime::new().unwrap();
    let site = runtime.block_on(Fragmented::create(&disk.0.join("data"), &path));
    let mut door = EngineDoor::open(runtime.handle(), &site.segment, &path).unwrap();
    door.put(&key(1), content(1), false).unwrap();
    // More than what is kept for deletes, and less than what cutting anew leaves to others.
    let filler = fill(&disk, 80 << 20);
    let file = runtime.block_on(site.open());
    let every_other: Vec<usize> = (0..BLOCKS).step_by(2).collect();
    runtime.block_on(site.write(&file, &every_other)).expect("writes go on");
    let report = runtime.block_on(site.segment.recut_files());
    assert_eq!((report.bytes, site.figure("tombolo_recut_bytes_total")), (0, 0.0), "there is no room for it");
    assert!(runtime.block_on(site.object()) == site.blocks.all(), "reads go on");
    runtime.block_on(file.close()).unwrap();
    door.delete(&[key(1)]).expect("deletes go on");
    runtime.block_on(site.segment.gc()).unwrap();

    std::fs::remove_file(filler).unwrap();
    // Of 4,096 extents.
    wait::until("the extents to go", || (site.figure("tombolo_recut_extents_total") >= 3500.0).then_some(()));
    assert!(runtime.block_on(site.object()) == site.blocks.all());
    site.opened_after_a_crash(&runtime, dir.path(), "after a crash");
}

/// Something else fills the disk to its last byte while a file is written to and cut anew. What fsync acknowledged can be read on the full disk, and is there after a crash.
#[test]
fn the_disk_fills_up_while_a_file_is_cut_anew() {
    for round in 1..=3 {
        let dir = tempfile::tempdir().unwrap();
        let disk = SmallDisk::mount(&dir.path().join("disk"), 512);
        let path = BucketPath::new("Test", "lab", "bucket").unwrap();
        let runtime = Runtime::new().unwrap();
        let site = runtime.block_on(Fragmented::create(&disk.0.join("data"), &path));
        let file = runtime.block_on(site.open());
        let wanted = f64::from(round) * 1e6;
        let filler = std::thread::scope(|scope| {
            let filling = scope.spawn(|| {
                wait::until("a part to be cut anew", || {
                    (site.figure("tombolo_recut_bytes_total") >= wanted).then_some(())
                });
                fill(&disk, 0)
            });
            let mut number = 0;
            // Until it fails, which it does when the disk is full.
            let refusal = loop {
                number = (number + 1021) % BLOCKS;
                if let Err(error) = runtime.block_on(site.write(&file, &[number])) {
                    break error;
                }
            };
            assert_eq!(refusal.kind(), ErrorKind::NoSpace, "{refusal}");
            filling.join().unwrap()
        });
        let report = runtime.block_on(site.segment.recut_files());
        assert_eq!(report.bytes, 0, "round {round}: there is no room for it");
        site.blocks.survived(&runtime.block_on(site.object()), &format!("round {round}: reads go on"));
        std::fs::remove_file(filler).unwrap();
        site.opened_after_a_crash(&runtime, dir.path(), &format!("round {round}: after a crash"));
    }
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
    // Something stays in each pack, for which there must be room to rewrite them.
    for number in (0..stored).filter(|number| number % 3 != 0) {
        std::fs::remove_file(point.join(format!("object-{number}"))).expect("deletes go on");
    }
    site.tombolo(&["gc"]);
    let mut file = File::create(point.join("kept")).unwrap();
    file.write_all(&small(5000).bytes()).unwrap();
    file.sync_all().expect("there is room again");
    let mut nfs = Nfs::connect(address);
    commit(&mut nfs, &far, small(5001)).expect("there is room again");
    for number in (0..stored).filter(|number| number % 3 == 0) {
        assert!(std::fs::read(point.join(format!("object-{number}"))).unwrap() == content(number).bytes());
    }
    assert!(std::fs::read(point.join("far")).unwrap() == small(5001).bytes());
    mounted.stop();
    site.tombolo(&["scrub"]);
    drop(disk);
}
