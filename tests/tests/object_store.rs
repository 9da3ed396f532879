//! The S3 door under the `object_store` crate, as Delta Lake and its kind use it.

use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};
use std::sync::Arc;
use tombolo_tests::content::Content;
use tombolo_tests::door::S3Door;
use tombolo_tests::server::{Server, Site};

fn store(server: &Server, bucket: &str) -> Arc<AmazonS3> {
    S3Door::open(server.client(), bucket).expect("the bucket");
    let keys = Site::credentials();
    let built = AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name(bucket)
        .with_access_key_id(keys.access_key)
        .with_secret_access_key(keys.secret_key)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .build();
    Arc::new(built.expect("a store"))
}

/// Writers append numbered commits to a log: each takes the next number it has not seen, and the one that loses a number
/// goes on to the next. No commit may be lost and none overwritten.
#[tokio::test(flavor = "multi_thread")]
async fn many_writers_of_one_commit_log_lose_none() {
    const WRITERS: u64 = 8;
    const EACH: u64 = 12;
    let site = Site::new();
    let server = site.serve();
    let store = store(&server, "lake");
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut next = 0_u64;
                for turn in 0..EACH {
                    loop {
                        let path = Path::from(format!("_delta_log/{next:020}.json"));
                        next += 1;
                        let body = format!("{{\"writer\":{writer},\"turn\":{turn}}}");
                        let options = PutOptions::from(PutMode::Create);
                        match store.put_opts(&path, body.into(), options).await {
                            Ok(_) => break,
                            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
                            Err(error) => panic!("writer {writer}: {error}"),
                        }
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut commits = Vec::new();
    for number in 0..WRITERS * EACH {
        let path = Path::from(format!("_delta_log/{number:020}.json"));
        let body = store.get(&path).await.expect("no gap in the log").bytes().await.unwrap();
        commits.push(String::from_utf8(body.to_vec()).unwrap());
    }
    commits.sort();
    let mut expected: Vec<_> = (0..WRITERS)
        .flat_map(|writer| (0..EACH).map(move |turn| format!("{{\"writer\":{writer},\"turn\":{turn}}}")))
        .collect();
    expected.sort();
    assert_eq!(commits, expected);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_by_etag_lose_none() {
    const WRITERS: u64 = 6;
    const EACH: u64 = 10;
    let site = Site::new();
    let server = site.serve();
    let store = store(&server, "counters");
    let path = Path::from("counter");
    store.put(&path, "0".into()).await.unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (store, path) = (store.clone(), path.clone());
            tokio::spawn(async move {
                let mut left = EACH;
                while left > 0 {
                    let got = store.get(&path).await.unwrap();
                    let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: None };
                    let count: u64 = std::str::from_utf8(&got.bytes().await.unwrap()).unwrap().parse().unwrap();
                    let options = PutOptions::from(PutMode::Update(version));
                    match store.put_opts(&path, (count + 1).to_string().into(), options).await {
                        Ok(_) => left -= 1,
                        Err(Error::Precondition { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let total = store.get(&path).await.unwrap().bytes().await.unwrap();
    assert_eq!(total, (WRITERS * EACH).to_string());
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn everyday_operations() {
    let site = Site::new();
    let server = site.serve();
    let store = store(&server, "everyday");
    let content = Content::new(11, 12 << 20);
    let bytes = content.bytes();
    let path = Path::from("data/part 1=ä/file.bin");
    let mut upload = store.put_multipart(&path).await.unwrap();
    for part in bytes.chunks(5 << 20) {
        upload.put_part(PutPayload::from(part.to_vec())).await.unwrap();
    }
    upload.complete().await.unwrap();
    assert!(store.get(&path).await.unwrap().bytes().await.unwrap() == bytes);
    let ranges = store.get_ranges(&path, &[0..10, 5_000_000..5_000_100, 12_000_000..12_000_001]).await.unwrap();
    assert_eq!(ranges[1], bytes[5_000_000..5_000_100]);

    let copy = Path::from("data/copy");
    store.copy(&path, &copy).await.unwrap();
    store.rename(&copy, &Path::from("data/renamed")).await.unwrap();
    let names = store.list(Some(&Path::from("data"))).map_ok(|meta| meta.location.to_string());
    let names: Vec<_> = names.try_collect().await.unwrap();
    assert_eq!(names.len(), 2, "{names:?}");
    let level = store.list_with_delimiter(Some(&Path::from("data"))).await.unwrap();
    assert_eq!((level.common_prefixes.len(), level.objects.len()), (1, 1));

    for number in 0..1200 {
        store.put(&Path::from(format!("many/{number:04}")), "x".into()).await.unwrap();
    }
    let many = store.list(Some(&Path::from("many"))).map_ok(|meta| meta.location).boxed();
    let deleted: Vec<_> = store.delete_stream(many).try_collect().await.unwrap();
    assert_eq!(deleted.len(), 1200);
    assert_eq!(store.list(Some(&Path::from("many"))).count().await, 0);
    let missing = store.get(&Path::from("many/0001")).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })));
    server.stop();
}
