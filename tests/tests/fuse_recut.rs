//! P1, P2 and P4 behind a real mount while a file is cut anew in the background (note 0008): whoever reads it, in the kernel's memory, past it or through S3,
//! sees what was written last; no version is made for it; and a kill at any time leaves what fsync acknowledged.
//!
//! `TOMBOLO_CRASH_CYCLES` sets the number of cycles.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tombolo_tests::blocks::Blocks;
use tombolo_tests::door::{Door, S3Door};
use tombolo_tests::mount::{BUCKET, KEPT, Mounted};
use tombolo_tests::s3::Request;
use tombolo_tests::server::{Site, free_port, metric};
use tombolo_tests::wait;

/// 16 MiB: eight of the windows in which a file is looked at.
const BLOCKS: usize = 4096;
const NAME: &str = "data";

fn write(blocks: &Blocks, file: &File, number: usize) -> std::io::Result<()> {
    file.write_all_at(&blocks.begin(number), Blocks::offset(number))?;
    blocks.written(number);
    Ok(())
}

fn save(blocks: &Blocks, file: &File, numbers: &[usize]) -> std::io::Result<()> {
    file.sync_all()?;
    numbers.iter().for_each(|number| blocks.saved(*number));
    Ok(())
}

/// Reads a block through a mount: what was written last.
fn read(blocks: &Blocks, file: &File, number: usize, who: &str) {
    let before = blocks.at(number).written;
    let mut bytes = vec![0; Blocks::BYTES];
    file.read_exact_at(&mut bytes, Blocks::offset(number)).unwrap();
    // What is written meanwhile may be half there.
    if blocks.at(number).begun == before {
        assert_eq!(
            Blocks::generation(number, &bytes, who),
            before,
            "{who}: block {number} is not what was written last"
        );
    }
}

/// Reads a block as a part of an object: of a whole version, not older than the last fsync.
fn read_object(blocks: &Blocks, door: &mut S3Door, number: usize) {
    let before = blocks.at(number).saved;
    let range = Blocks::offset(number)..Blocks::offset(number + 1);
    let bytes = door.read_range(NAME.as_bytes(), range).unwrap();
    let found = Blocks::generation(number, &bytes, "S3");
    let now = blocks.at(number).begun;
    assert!((before..=now).contains(&found), "S3: block {number} is at {found}, not between {before} and {now}");
}

/// A served and mounted site, and where its metrics are.
fn mounted(site: &Site, options: &str) -> (Mounted, SocketAddr) {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    (Mounted::start_with(site, options, &["--admin", &admin.to_string()]), admin)
}

fn create(root: &Path, blocks: &Blocks) -> File {
    let file = File::options().read(true).write(true).create_new(true).open(root.join(NAME)).unwrap();
    let all: Vec<usize> = (0..BLOCKS).collect();
    all.iter().for_each(|number| write(blocks, &file, *number).unwrap());
    save(blocks, &file, &all).unwrap();
    file
}

/// Past the kernel's memory.
fn direct(path: &Path) -> File {
    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap();
    File::options().read(true).custom_flags(flags).open(path).unwrap()
}

/// Whoever ends, or fails, ends the others.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn who_reads_and_writes_beside_it_sees_right_bytes_and_no_version_is_made() {
    let site = Site::new();
    let path = format!("{}/{BUCKET}", Site::TENANT);
    site.tombolo(&["bucket", "create", &path, "--set", "versioning=on"]);
    let (mut mounted, admin) = mounted(&site, KEPT);
    let second = site.scratch("second");
    site.tombolo(&["mount", &path, second.to_str().unwrap(), "-o", KEPT]);
    let root = mounted.point().to_owned();
    let figure = |name: &str| metric(admin, name).unwrap();
    let blocks = Blocks::new(BLOCKS);
    let file = create(&root, &blocks);
    let mut door = S3Door::open(mounted.server().client(), BUCKET).unwrap();

    // One save that leaves 2,048 extents: what is known of the file is the same before, while and after it is cut anew.
    let parts: Vec<usize> = (1..BLOCKS).step_by(4).collect();
    let known = |file: &File| {
        let (bucket, query) = (format!("/{BUCKET}").into_bytes(), [("versions", ""), ("prefix", NAME)]);
        let list = Request { method: "GET", path: &bucket, query: &query, ..Request::default() };
        let versions = mounted.server().client().send(&list).unwrap().expect_success("a list of versions").text();
        let meta = file.metadata().unwrap();
        let attributes = (meta.ino(), meta.len(), meta.blocks(), meta.mtime(), meta.mtime_nsec(), meta.ctime_nsec());
        (versions, attributes)
    };
    for number in &parts {
        write(&blocks, &file, *number).unwrap();
    }
    save(&blocks, &file, &parts).unwrap();
    let before = known(&file);
    assert!(before.0.matches("<Version>").count() >= 2, "{}", before.0);
    wait::until("the extents to go", || (figure("tombolo_recut_extents_total") >= 1500.0).then_some(()));
    assert_eq!(known(&file), before);
    assert!(fs::read(second.join(NAME)).unwrap() == blocks.all());
    assert!(known(&file) == before, "reading it has changed something");

    // A database: an fsync for each page, until the whole file was cut anew in the meantime.
    let wanted = figure("tombolo_recut_bytes_total") + blocks.bytes() as f64;
    let is_over = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (blocks, is_over, reads, root) = (&blocks, &is_over, &reads, &root);
        let read_on = move |seed: u64, read: &mut dyn FnMut(usize)| {
            let _over = Over(is_over);
            let mut random = StdRng::seed_from_u64(seed);
            while !is_over.load(Ordering::SeqCst) {
                read(random.random_range(0..BLOCKS));
                reads.fetch_add(1, Ordering::SeqCst);
            }
        };
        scope.spawn(move || {
            let file = File::open(root.join(NAME)).unwrap();
            read_on(1, &mut |number| read(blocks, &file, number, "in the kernel"));
        });
        scope.spawn(move || {
            let file = direct(&root.join(NAME));
            read_on(2, &mut |number| read(blocks, &file, number, "past the kernel"));
        });
        scope.spawn(move || read_on(3, &mut |number| read_object(blocks, &mut door, number)));
        scope.spawn(move || {
            let _over = Over(is_over);
            let mut random = StdRng::seed_from_u64(4);
            while !is_over.load(Ordering::SeqCst) {
                let number = random.random_range(0..BLOCKS);
                write(blocks, &file, number).unwrap();
                save(blocks, &file, &[number]).unwrap();
            }
        });
        let _over = Over(is_over);
        wait::until("the file to be cut anew", || {
            (figure("tombolo_recut_bytes_total") >= wanted || is_over.load(Ordering::SeqCst)).then_some(())
        });
    });
    assert!(reads.load(Ordering::SeqCst) > 1000, "nobody got to read");

    // Everybody at the end: the kernel's memory of both mounts, the disk behind it, S3, and a server that was started again.
    let expected = blocks.all();
    let mut door = S3Door::open(mounted.server().client(), BUCKET).unwrap();
    let object = |door: &mut S3Door| door.read_range(NAME.as_bytes(), 0..expected.len() as u64).unwrap();
    assert!(object(&mut door) == expected, "S3");
    assert!(fs::read(root.join(NAME)).unwrap() == expected, "in the kernel");
    let mut bytes = vec![0; expected.len()];
    direct(&root.join(NAME)).read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == expected, "past the kernel");
    wait::until("the second mount", || (fs::read(second.join(NAME)).unwrap() == expected).then_some(()));
    mounted.stop();
    mounted.serve(&site);
    assert!(fs::read(root.join(NAME)).unwrap() == expected, "after a restart");
    let mut door = S3Door::open(mounted.server().client(), BUCKET).unwrap();
    assert!(object(&mut door) == expected, "S3 after a restart");
    mounted.stop();
    site.tombolo(&["scrub"]);
}

fn cycles() -> u64 {
    std::env::var("TOMBOLO_CRASH_CYCLES").map_or(10, |text| text.parse().expect("TOMBOLO_CRASH_CYCLES is a number"))
}

#[test]
fn a_kill_while_files_are_cut_anew_leaves_what_fsync_acknowledged() {
    let site = Site::new();
    let (mut mounted, admin) = mounted(&site, "");
    let path = mounted.point().join(NAME);
    let blocks = Blocks::new(BLOCKS);
    drop(create(mounted.point(), &blocks));
    for cycle in 1..=cycles() {
        let recut = || metric(admin, "tombolo_recut_bytes_total").unwrap();
        // A part of a window, or several of them.
        let wanted = recut() + (cycle * 700_000) as f64;
        std::thread::scope(|scope| {
            let (blocks, path) = (&blocks, &path);
            let writer = scope.spawn(move || {
                let file = File::options().write(true).open(path).unwrap();
                let mut random = StdRng::seed_from_u64(cycle);
                loop {
                    let number = random.random_range(0..BLOCKS);
                    if write(blocks, &file, number).and_then(|()| save(blocks, &file, &[number])).is_err() {
                        return;
                    }
                }
            });
            wait::until("something to be cut anew", || (recut() >= wanted || writer.is_finished()).then_some(()));
            assert!(!writer.is_finished(), "cycle {cycle}: the writer failed before the kill");
            mounted.kill();
        });
        mounted.serve(&site);
        let bytes = fs::read(&path).unwrap();
        blocks.survived(&bytes, &format!("cycle {cycle}"));
        let mut door = S3Door::open(mounted.server().client(), BUCKET).unwrap();
        assert!(door.read_range(NAME.as_bytes(), 0..bytes.len() as u64).unwrap() == bytes, "cycle {cycle}: S3");
        if cycle % 3 == 0 {
            site.tombolo(&["gc"]);
        }
    }
    mounted.stop();
    site.tombolo(&["scrub"]);
}
