//! P1 and P4 behind a real mount while a file is cut anew in the background (note 0008): a kill at any time leaves what fsync acknowledged, through the mount and S3.
//!
//! `TOMBOLO_CRASH_CYCLES` sets the number of cycles.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::Path;
use tombolo_tests::blocks::Blocks;
use tombolo_tests::door::{Door, S3Door};
use tombolo_tests::mount::{BUCKET, Mounted};
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
