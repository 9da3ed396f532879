//! What was written unstably and can't be kept: the client must send it again.

use crate::client::{Args, OK, within};
use crate::served::{BUCKET, Served, patient};
use bytes::Bytes;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use tombolo_core::NodeId;
use tombolo_core::engine::fs::{Caller, OpenFlags, SetAttributes};

/// Turns the bytes of `needle` around where they are stored.
fn damage(dir: &Path, needle: &[u8]) {
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap_or_default();
            if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
                let file = std::fs::File::options().write(true).open(&path).unwrap();
                file.write_all_at(&needle.iter().map(|byte| !byte).collect::<Vec<_>>(), at as u64).unwrap();
                return;
            }
        }
    }
    panic!("it is stored nowhere");
}

/// The server closes files that are quiet. When the save that follows failed, what was written unstably was dropped, and the COMMIT that came then was
/// answered as if it were on disk: with the verifier of before.
#[tokio::test]
async fn the_verifier_changes_when_unstable_bytes_are_lost() {
    let served = Served::new(&[], patient()).await;
    let content = served.filled("file", 1 << 20).await;
    let mut client = served.client().await;
    let root = client.mount(BUCKET).await.unwrap();
    let file = client.lookup(&root, "file").await.unwrap();
    let other = client.create(&root, "other").await.unwrap();
    let before = client.commit(&other).await.unwrap();
    // What is left of the file shall be small enough to be kept beside its name, and can't be read.
    damage(served.dir.path(), &content[100..164]);
    let cut = Args::new().opaque(&file).set(Some(200)).u32(0);
    assert_ne!(client.status(2, &cut).await, OK, "the file is damaged");
    assert_eq!(client.commit(&other).await.unwrap(), before, "nothing is lost yet");
    assert_eq!(client.write(&file, 0, b"unstable").await.unwrap(), before);
    // The server keeps so many files open, and closes those that were used longest ago.
    for number in 0..1100 {
        let name = format!("f{number}");
        served.file(&NodeId::ROOT, &name).await;
        let handle = client.lookup(&root, &name).await.unwrap();
        client.read(&handle, 0, 1).await.unwrap();
    }
    // Not asked of the file itself: that would open it again.
    let changed = async {
        loop {
            let now = client.commit(&other).await.unwrap();
            if now != before {
                return now;
            }
        }
    };
    let after = within("the verifier changes", changed).await;
    assert_eq!(client.commit(&file).await.unwrap(), after, "nothing of it is left to be saved");
    assert_eq!(client.write(&other, 0, b"again").await.unwrap(), after);
    assert_eq!(client.commit(&other).await.unwrap(), after);
}

/// As Linux has it for files of its own: an error of the background that nobody has heard of is told by the next fsync.
#[tokio::test]
async fn who_opens_a_file_for_writing_next_hears_once_that_what_was_written_is_lost() {
    const EIO: i32 = 5;
    let served = Served::new(&[], patient()).await;
    let content = served.filled("file", 1 << 20).await;
    let (files, root) = (&served.files, Caller::root());
    let node = files.lookup(&root, &NodeId::ROOT, b"file").await.unwrap().node;
    let reads = OpenFlags { read: true, write: false, truncate: false, is_granted: true };
    let writes = OpenFlags { write: true, ..reads };
    let file = files.open(&root, &node, writes).await.unwrap();
    // What is left of the file shall be small enough to be kept beside its name, and can't be read.
    damage(served.dir.path(), &content[100..164]);
    let cut = SetAttributes { size: Some(200), ..SetAttributes::default() };
    files.set_attributes(&root, &node, cut, None).await.unwrap();
    file.write_at(0, Bytes::from_static(b"closed and not kept")).await.unwrap();
    drop(file);
    let mut interval = tokio::time::interval(Duration::from_millis(10));
    let lost = async {
        while files.losses() == 0 {
            interval.tick().await;
        }
    };
    within("it is given up", lost).await;
    let reader = files.open(&root, &node, reads).await.unwrap();
    reader.fsync().await.unwrap();
    let writer = files.open(&root, &node, writes).await.unwrap();
    assert_eq!(writer.fsync().await.unwrap_err().errno(), EIO);
    writer.fsync().await.unwrap();
    drop((reader, writer));
    let later = files.open(&root, &node, writes).await.unwrap();
    later.fsync().await.unwrap();
    later.close().await.unwrap();
}
