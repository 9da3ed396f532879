//! The `object_store` crate's S3 client, unmodified, with conditional puts and multipart.

use crate::client::{BUCKET, Door, noise};
use ::object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use ::object_store::path::Path;
use ::object_store::{
    Attribute, Attributes, Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
    WriteMultipart,
};
use futures::TryStreamExt;

fn store(door: &Door) -> AmazonS3 {
    AmazonS3Builder::new()
        .with_endpoint(format!("http://{}", door.address))
        .with_allow_http(true)
        .with_region("anywhere")
        .with_bucket_name(BUCKET)
        .with_access_key_id("LABKEY")
        .with_secret_access_key("secret-of-LABKEY")
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .build()
        .unwrap()
}

#[tokio::test]
async fn put_get_list_copy_delete() {
    let door = Door::open().await;
    let store = store(&door);
    let content = noise(100_000, 1);
    let path = Path::from("dir/some file+&?");
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::ContentType, "text/csv".into());
    let options = PutOptions { attributes, ..Default::default() };
    store.put_opts(&path, PutPayload::from(content.clone()), options).await.unwrap();
    let got = store.get(&path).await.unwrap();
    assert_eq!(got.attributes.get(&Attribute::ContentType).map(|v| v.as_ref()), Some("text/csv"));
    assert_eq!(got.bytes().await.unwrap(), content);
    assert_eq!(store.get_range(&path, 10..20).await.unwrap(), content.slice(10..20));
    let ranges = store.get_ranges(&path, &[0..5, 99_990..100_000]).await.unwrap();
    assert_eq!(ranges, [content.slice(0..5), content.slice(99_990..100_000)]);
    assert_eq!(store.head(&path).await.unwrap().size, 100_000);
    store.copy(&path, &Path::from("copy")).await.unwrap();
    assert_eq!(store.get(&Path::from("copy")).await.unwrap().bytes().await.unwrap(), content);
    let listed: Vec<_> = store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
    assert_eq!(listed, ["copy", path.as_ref()]);
    let rolled = store.list_with_delimiter(None).await.unwrap();
    assert_eq!((rolled.objects.len(), rolled.common_prefixes), (1, vec![Path::from("dir")]));
    let doomed = futures::stream::iter([Ok(path.clone()), Ok(Path::from("copy"))]);
    let deleted: Vec<Path> = store.delete_stream(Box::pin(doomed)).try_collect().await.unwrap();
    assert_eq!(deleted.len(), 2);
    assert!(matches!(store.get(&path).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn conditional_puts_are_atomic() {
    let door = Door::open().await;
    let store = store(&door);
    let path = Path::from("log/0.json");
    let create = || PutOptions { mode: PutMode::Create, ..Default::default() };
    let first = store.put_opts(&path, "one".into(), create()).await.unwrap();
    assert!(matches!(store.put_opts(&path, "two".into(), create()).await, Err(Error::AlreadyExists { .. })));
    let update = |e_tag: Option<String>| PutOptions {
        mode: PutMode::Update(UpdateVersion { e_tag, version: None }),
        ..Default::default()
    };
    store.put_opts(&path, "two".into(), update(first.e_tag.clone())).await.unwrap();
    assert!(matches!(
        store.put_opts(&path, "three".into(), update(first.e_tag)).await,
        Err(Error::Precondition { .. })
    ));
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "two");
}

#[tokio::test]
async fn multipart_streams() {
    let door = Door::open().await;
    let store = store(&door);
    let path = Path::from("large");
    let content = noise(13 << 20, 4);
    let mut writer = WriteMultipart::new_with_chunk_size(store.put_multipart(&path).await.unwrap(), 5 << 20);
    for piece in content.chunks(100_000) {
        writer.write(piece);
    }
    writer.finish().await.unwrap();
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), content);
    let mut aborted = store.put_multipart(&Path::from("aborted")).await.unwrap();
    aborted.put_part("x".into()).await.unwrap();
    aborted.abort().await.unwrap();
    assert!(store.head(&Path::from("aborted")).await.is_err());
}
