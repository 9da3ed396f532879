//! What two segments wrote at the same time, behind the door.

use crate::served::{BUCKET, Served, patient};
use tombolo_core::{Bucket, CreateOptions, OpenOptions, PutOptions, Segment};

/// A READ opened the file as if to write to it, and so made a file of its own of a conflict copy: whoever looked at it had decided the conflict, on all segments.
#[tokio::test(flavor = "multi_thread")]
async fn reading_a_conflict_copy_decides_nothing() {
    let served = Served::new(&[], patient()).await;
    let here = served.bucket().await;
    let dir = tempfile::tempdir().unwrap();
    let create = CreateOptions { name: "there".into(), cluster: "C".into() };
    let segment = Segment::create(dir.path().join("s"), create, OpenOptions::default()).await.unwrap();
    let exported = here.segment().catalog().export(&|_| true).await.unwrap();
    segment.catalog().import(&exported, &|_| true).await.unwrap();
    let there = segment.bucket(here.path()).await.unwrap();
    let pull = async |to: &Bucket, from: &Bucket| {
        let delta = from.changes_since(&to.position().await.unwrap()).await.unwrap();
        to.apply(&delta).await.unwrap();
    };
    // Two changes of one file.
    here.put("x", "before", PutOptions::default()).await.unwrap();
    pull(&there, &here).await;
    for (bucket, content) in [(&here, "by the one"), (&there, "by the other")] {
        bucket.put("x", content, PutOptions::default()).await.unwrap();
    }
    pull(&here, &there).await;
    let copies = async || here.conflicts(None, 10).await.unwrap();
    let copy = copies().await[0].key.clone().unwrap();

    let mut client = served.client().await;
    let root = client.mount(BUCKET).await.unwrap();
    let file = client.lookup(&root, std::str::from_utf8(&copy).unwrap()).await.unwrap();
    assert!(client.read(&file, 0, 100).await.unwrap() >= 10);
    assert_eq!(copies().await.len(), 1, "it is only read");
    let verifier = client.write(&file, 0, b"mine").await.unwrap();
    assert_eq!(client.commit(&file).await.unwrap(), verifier);
    assert_eq!(copies().await.len(), 0, "who writes to it has decided");
    let file = client.lookup(&root, std::str::from_utf8(&copy).unwrap()).await.unwrap();
    assert!(client.read(&file, 0, 100).await.unwrap() >= 10);
}
