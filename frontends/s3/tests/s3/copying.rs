//! CopyObject: directives, conditions, sources in every encoding.

use crate::client::*;
use tombolo_core::BucketPolicy;

fn copy(client: &Client, to: &str, source: &str) -> Request {
    client.put(&path(to)).header("x-amz-copy-source", source)
}

#[tokio::test]
async fn directives_keep_or_replace() {
    let door = Door::open().await;
    let client = door.client();
    let put = client
        .put(&path("from"))
        .header("content-type", "a/b")
        .header("x-amz-meta-a", "1")
        .header("x-amz-tagging", "t=1");
    let etag = put.body("content").send().await.ok().header("etag").unwrap().to_owned();
    let reply = copy(&client, "kept", "bucket/from").send().await.ok();
    assert_eq!(reply.xml("ETag"), etag);
    assert!(!reply.xml("LastModified").is_empty());
    let kept = client.get(&path("kept")).send().await.ok();
    assert_eq!(
        (kept.body.as_ref(), kept.header("content-type"), kept.header("x-amz-meta-a")),
        (&b"content"[..], Some("a/b"), Some("1"))
    );
    assert_eq!(client.get(&path("kept")).query("tagging", "").send().await.all("Key"), ["t"]);

    let replaced = copy(&client, "new", "/bucket/from")
        .header("x-amz-metadata-directive", "REPLACE")
        .header("x-amz-tagging-directive", "REPLACE")
        .header("x-amz-meta-b", "2")
        .header("x-amz-tagging", "u=2");
    replaced.send().await.ok();
    let new = client.get(&path("new")).send().await.ok();
    assert_eq!((new.header("x-amz-meta-a"), new.header("x-amz-meta-b")), (None, Some("2")));
    assert_eq!(new.header("content-type"), Some("binary/octet-stream"));
    assert_eq!(client.get(&path("new")).query("tagging", "").send().await.all("Key"), ["u"]);
    copy(&client, "x", "bucket/from")
        .header("x-amz-metadata-directive", "OTHER")
        .send()
        .await
        .refused(400, "InvalidArgument");

    copy(&client, "from", "bucket/from").send().await.refused(400, "InvalidRequest");
    copy(&client, "from", "bucket/from")
        .header("x-amz-metadata-directive", "REPLACE")
        .header("x-amz-meta-c", "3")
        .send()
        .await
        .ok();
    let touched = client.get(&path("from")).send().await.ok();
    assert_eq!(
        (touched.body.as_ref(), touched.header("x-amz-meta-a"), touched.header("x-amz-meta-c")),
        (&b"content"[..], None, Some("3"))
    );
}

#[tokio::test]
async fn sources_may_be_encoded_in_every_way() {
    let door = Door::open().await;
    let client = door.client();
    let key = "dir one/ä+b&c?d=e%25#f";
    client.put(&path(key)).body("x").send().await.ok();
    let encoded = encode(key.as_bytes(), true);
    let all = encode(format!("{BUCKET}/{key}").as_bytes(), false);
    for source in [format!("{BUCKET}/{encoded}"), format!("/{BUCKET}/{encoded}"), all.clone(), format!("%2F{all}")] {
        copy(&client, "copy", &source).send().await.ok();
        assert_eq!(client.get(&path("copy")).send().await.ok().body, "x", "{source}");
        client.delete(&path("copy")).send().await.ok();
    }
    client.put(&path("plain+key with space")).body("y").send().await.ok();
    copy(&client, "copy", "bucket/plain%2Bkey%20with%20space").send().await.ok();
    copy(&client, "copy", "bucket/missing").send().await.refused(404, "NoSuchKey");
    copy(&client, "copy", "missing-bucket/k").send().await.refused(404, "NoSuchBucket");
}

/// Buckets that other doors made are read under names that S3 would not give; as the source of a copy such a name was refused.
#[tokio::test]
async fn a_source_may_be_in_a_bucket_of_any_name() {
    let door = Door::open().await;
    let client = door.client();
    for name in ["My_Bucket", "ab", "UPPER"] {
        let bucket = format!("west/lab/{name}").parse().unwrap();
        door.segment.catalog().create_bucket(&bucket, BucketPolicy::default()).await.unwrap();
        let at = format!("/{name}/dir/a%20b");
        client.put(&at).body(name).send().await.ok();
        for source in [at.as_str(), &at[1..], &encode(format!("{name}/dir/a b").as_bytes(), false)] {
            copy(&client, "copy", source).send().await.ok();
            assert_eq!(client.get(&path("copy")).send().await.ok().body, name, "{source}");
            client.delete(&path("copy")).send().await.ok();
        }
        // It is its own source, and not another's of the same key.
        client.put(&at).header("x-amz-copy-source", &at).send().await.refused(400, "InvalidRequest");

        let id = client.post(&path("parts")).query("uploads", "").send().await.ok().xml("UploadId");
        let part = client.put(&path("parts")).query("partNumber", "1").query("uploadId", &id);
        let etag = part.header("x-amz-copy-source", &at).send().await.ok().xml("ETag");
        let list = format!("<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>");
        let xml = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
        client.post(&path("parts")).query("uploadId", &id).body(xml).send().await.ok();
        assert_eq!(client.get(&path("parts")).send().await.ok().body, name);
    }
    copy(&client, "copy", "My_Bucket/none").send().await.refused(404, "NoSuchKey");
    copy(&client, "copy", "Other_Bucket/k").send().await.refused(400, "InvalidBucketName");
    let other = door.client_of("OTHERKEY");
    other.put("/others").send().await.ok();
    let stolen = other.put("/others/k").header("x-amz-copy-source", "My_Bucket/dir/a%20b");
    stolen.send().await.refused(400, "InvalidBucketName");
}

#[tokio::test]
async fn the_sources_conditions_are_412() {
    let door = Door::open().await;
    let client = door.client();
    let etag = client.put(&path("k")).body("x").send().await.ok().header("etag").unwrap().to_owned();
    let (past, future) = ("Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT");
    for (name, value, status) in [
        ("x-amz-copy-source-if-match", etag.as_str(), 200),
        ("x-amz-copy-source-if-match", "\"x\"", 412),
        ("x-amz-copy-source-if-none-match", "\"x\"", 200),
        ("x-amz-copy-source-if-none-match", etag.as_str(), 412),
        ("x-amz-copy-source-if-modified-since", past, 200),
        ("x-amz-copy-source-if-modified-since", future, 412),
        ("x-amz-copy-source-if-unmodified-since", past, 412),
        ("x-amz-copy-source-if-unmodified-since", future, 200),
    ] {
        let reply = copy(&client, "copy", "bucket/k").header(name, value).send().await;
        assert_eq!(reply.status, status, "{name}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_copy_can_get_a_new_checksum() {
    let door = Door::open().await;
    let client = door.client();
    let content = noise(200_000, 3);
    client.put(&path("k")).body(content.clone()).send().await.ok();
    let reply = copy(&client, "copy", "bucket/k").header("x-amz-checksum-algorithm", "CRC32").send().await.ok();
    assert_eq!(reply.xml("ChecksumCRC32"), crc32(&content));
    let head = client.head(&path("copy")).header("x-amz-checksum-mode", "ENABLED").send().await.ok();
    assert_eq!(head.header("x-amz-checksum-crc32"), Some(crc32(&content).as_str()));
    copy(&client, "k", "bucket/k").header("x-amz-checksum-algorithm", "CRC32").send().await.ok();
}
