//! P1 through a mount: what fsync acknowledged outlives the death of the server, byte for byte; what it did not is there whole or in part, never
//! as something nobody wrote.
//!
//! `TOMBOLO_CRASH_CYCLES` sets the number of cycles.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tombolo_tests::content::Content;
use tombolo_tests::mount::Mounted;
use tombolo_tests::server::Site;

const WRITERS: usize = 8;
/// Acknowledged fsyncs, all writers together, before a kill.
const ACKNOWLEDGED: usize = 60;

fn cycles() -> u64 {
    std::env::var("TOMBOLO_CRASH_CYCLES").map_or(10, |text| text.parse().expect("TOMBOLO_CRASH_CYCLES is a number"))
}

/// What was acknowledged: content by name.
type Kept = Mutex<BTreeMap<String, Content>>;

/// Makes files until the server is gone. Every third replaces one by renaming, every fifth is removed again.
fn work(root: &Path, writer: usize, cycle: u64, kept: &Kept, count: &AtomicUsize) {
    for number in 0.. {
        let name = format!("{writer}-{}", number % 40);
        let content = Content::new(cycle * 1000 + number, [10, 3000, 70_000, 400_000][number as usize % 4]);
        let step = || -> std::io::Result<()> {
            let path = root.join(&name);
            if number % 5 == 4 {
                let before = kept.lock().unwrap().remove(&name);
                if before.is_some() {
                    // From here on it may be there or not.
                    fs::remove_file(&path)?;
                    File::open(root)?.sync_all()?;
                }
                return Ok(());
            }
            // The name is one of a kind until this is acknowledged: a crash in between may leave either content.
            kept.lock().unwrap().remove(&name);
            let write = |path: &Path| -> std::io::Result<()> {
                let mut file = File::create(path)?;
                file.write_all(&content.bytes())?;
                file.sync_all()
            };
            if number % 3 == 0 {
                let aside = root.join(format!("{name}.new"));
                write(&aside)?;
                fs::rename(&aside, &path)?;
                File::open(root)?.sync_all()?;
            } else {
                write(&path)?;
            }
            kept.lock().unwrap().insert(name.clone(), content);
            Ok(())
        };
        if step().is_err() {
            return;
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn what_fsync_acknowledged_is_there_after_a_kill() {
    let site = Site::new();
    let mut mounted = Mounted::start(&site, "");
    let kept: Kept = Mutex::default();
    for cycle in 1..=cycles() {
        let root = mounted.point().to_owned();
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (root, kept, count) = (&root, &kept, &count);
                scope.spawn(move || work(root, writer, cycle, kept, count));
            }
            let wanted = ACKNOWLEDGED + (cycle as usize * 7) % 20;
            tombolo_tests::wait::until("fsyncs", || (count.load(Ordering::Relaxed) >= wanted).then_some(()));
            mounted.kill();
        });
        mounted.serve(&site);
        for (name, content) in kept.lock().unwrap().iter() {
            let bytes = fs::read(root.join(name)).unwrap_or_else(|error| {
                let names: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
                panic!("cycle {cycle}: {name}: {error}; there are {names:?}\n{}", mounted.server().log())
            });
            assert!(bytes == content.bytes(), "cycle {cycle}: {name} has other bytes");
        }
    }
    site.tombolo(&["scrub"]);
}
