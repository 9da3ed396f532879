//! Multipart uploads.

use crate::client::*;
use bytes::Bytes;

const MIB: usize = 1 << 20;

async fn start(client: &Client, key: &str) -> String {
    client.post(&path(key)).query("uploads", "").send().await.ok().xml("UploadId")
}

fn part(client: &Client, key: &str, id: &str, number: u32, body: Bytes) -> Request {
    client.put(&path(key)).query("partNumber", &number.to_string()).query("uploadId", id).body(body)
}

async fn store(client: &Client, key: &str, id: &str, number: u32, body: Bytes) -> String {
    part(client, key, id, number, body).send().await.ok().header("etag").unwrap().to_owned()
}

fn complete(client: &Client, key: &str, id: &str, parts: &[(u32, &str)]) -> Request {
    let parts: String =
        parts.iter().map(|(n, etag)| format!("<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>")).collect();
    let xml = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    client.post(&path(key)).query("uploadId", id).body(xml)
}

#[tokio::test]
async fn parts_in_any_order_make_one_object() {
    let door = Door::open().await;
    let client = door.client();
    let id = client
        .post(&path("k"))
        .query("uploads", "")
        .header("content-type", "a/b")
        .header("x-amz-meta-m", "1")
        .header("x-amz-tagging", "t=1");
    let id = id.send().await.ok().xml("UploadId");
    let (one, two, three) = (noise(5 * MIB, 1), noise(6 * MIB, 2), noise(1000, 3));
    let third = store(&client, "k", &id, 30, three.clone()).await;
    store(&client, "k", &id, 2, noise(5 * MIB, 9)).await;
    let first = store(&client, "k", &id, 1, one.clone()).await;
    let second = store(&client, "k", &id, 2, two.clone()).await;
    assert!(door.keys().await.is_empty(), "nothing shows before it is complete");
    let unused = store(&client, "k", &id, 31, noise(10, 4)).await;
    assert!(!unused.is_empty());

    let parts = client.get(&path("k")).query("uploadId", &id).query("max-parts", "2").send().await.ok();
    assert_eq!(parts.all("PartNumber"), ["1", "2"]);
    assert_eq!((parts.xml("IsTruncated").as_str(), parts.xml("NextPartNumberMarker").as_str()), ("true", "2"));
    let parts = client.get(&path("k")).query("uploadId", &id).query("part-number-marker", "2").send().await.ok();
    assert_eq!(
        (parts.all("PartNumber"), parts.xml("IsTruncated")),
        (vec!["30".to_owned(), "31".to_owned()], "false".to_owned())
    );

    let list = [(1, first.as_str()), (2, second.as_str()), (30, third.as_str())];
    let done = complete(&client, "k", &id, &list).send().await.ok();
    let binary: Vec<u8> = [&one, &two, &three].iter().flat_map(|p| md5(p)).collect();
    let etag = format!("\"{}-3\"", hex(&md5(&binary)));
    assert_eq!(done.xml("ETag"), etag);
    assert_eq!((done.xml("Bucket").as_str(), done.xml("Key").as_str()), (BUCKET, "k"));
    let whole = [one.clone(), two.clone(), three.clone()].concat();
    let get = client.get(&path("k")).send().await.ok();
    assert_eq!(get.body, whole);
    assert_eq!(
        (get.header("etag"), get.header("content-type"), get.header("x-amz-meta-m")),
        (Some(etag.as_str()), Some("a/b"), Some("1"))
    );
    assert_eq!(get.header("x-tombolo-upload-checksum"), None);
    assert_eq!(client.get(&path("k")).query("tagging", "").send().await.all("Key"), ["t"]);
    let again = complete(&client, "k", &id, &list).send().await.ok();
    assert_eq!(again.xml("ETag"), etag, "completing again answers again");

    let second_part = client.get(&path("k")).query("partNumber", "2").send().await;
    assert_eq!((second_part.status, second_part.body.clone()), (206, two));
    assert_eq!(second_part.header("x-amz-mp-parts-count"), Some("3"));
    assert_eq!(
        second_part.header("content-range"),
        Some(format!("bytes {}-{}/{}", 5 * MIB, 11 * MIB - 1, whole.len()).as_str())
    );
    client.get(&path("k")).query("partNumber", "4").send().await.refused(416, "InvalidPartNumber");
    let attributes = client
        .get(&path("k"))
        .query("attributes", "")
        .header("x-amz-object-attributes", "ObjectParts")
        .send()
        .await
        .ok();
    assert_eq!(attributes.all("PartNumber"), ["1", "2", "3"]);
    client.get(&path("k")).query("uploadId", &id).send().await.refused(404, "NoSuchUpload");
}

#[tokio::test]
async fn wrong_completions_are_refused_and_change_nothing() {
    let door = Door::open().await;
    let client = door.client();
    let id = start(&client, "k").await;
    let small = store(&client, "k", &id, 1, noise(1000, 1)).await;
    let last = store(&client, "k", &id, 2, noise(1000, 2)).await;
    complete(&client, "k", &id, &[(1, &small), (2, &last)]).send().await.refused(400, "EntityTooSmall");
    complete(&client, "k", &id, &[(2, &last), (1, &small)]).send().await.refused(400, "InvalidPartOrder");
    complete(&client, "k", &id, &[(1, &last)]).send().await.refused(400, "InvalidPart");
    complete(&client, "k", &id, &[(3, &last)]).send().await.refused(400, "InvalidPart");
    complete(&client, "k", &id, &[]).send().await.refused(400, "MalformedXML");
    client.post(&path("k")).query("uploadId", &id).body("").send().await.refused(400, "MalformedXML");
    complete(&client, "k", "no-such-upload", &[(1, &small)]).send().await.refused(404, "NoSuchUpload");
    complete(&client, "other", &id, &[(1, &small)]).send().await.refused(404, "NoSuchUpload");
    part(&client, "k", "no-such-upload", 1, noise(10, 1)).send().await.refused(404, "NoSuchUpload");
    part(&client, "k", &id, 0, noise(10, 1)).send().await.refused(400, "InvalidArgument");
    part(&client, "k", &id, 10_001, noise(10, 1)).send().await.refused(400, "InvalidArgument");
    let sized = complete(&client, "k", &id, &[(1, &small)]).header("x-amz-mp-object-size", "999").send().await;
    sized.refused(400, "InvalidRequest");
    let bad = part(&client, "k", &id, 3, noise(1000, 1)).header("content-md5", &base64(&md5(b"other"))).send().await;
    bad.refused(400, "BadDigest");
    part(&client, "k", &id, 3, noise(200_000, 1))
        .header("x-amz-checksum-crc32", &crc32(b"other"))
        .send()
        .await
        .refused(400, "BadDigest");
    let parts = client.get(&path("k")).query("uploadId", &id).send().await.ok();
    assert_eq!(parts.all("PartNumber"), ["1", "2"], "a refused part is not there");
    client.put(&path("k")).body("old").send().await.ok();
    complete(&client, "k", &id, &[(1, &small)])
        .header("if-none-match", "*")
        .send()
        .await
        .refused(412, "PreconditionFailed");
    assert_eq!(client.get(&path("k")).send().await.body, "old");
    complete(&client, "k", &id, &[(1, &small)]).send().await.ok();
    assert_eq!(client.get(&path("k")).send().await.body, noise(1000, 1));
}

#[tokio::test]
async fn aborted_uploads_are_gone() {
    let door = Door::open().await;
    let client = door.client();
    let id = start(&client, "k").await;
    store(&client, "k", &id, 1, noise(1000, 1)).await;
    assert_eq!(client.delete(&path("k")).query("uploadId", &id).send().await.status, 204);
    client.delete(&path("k")).query("uploadId", &id).send().await.refused(404, "NoSuchUpload");
    part(&client, "k", &id, 1, noise(10, 1)).send().await.refused(404, "NoSuchUpload");
    let id = start(&client, "k").await;
    client.delete(&format!("/{BUCKET}")).send().await.refused(409, "BucketNotEmpty");
    assert_eq!(door.segment.expire_uploads(std::time::Duration::ZERO).await.unwrap(), 1);
    client.get(&path("k")).query("uploadId", &id).send().await.refused(404, "NoSuchUpload");
    assert_eq!(client.delete(&format!("/{BUCKET}")).send().await.status, 204);
}

#[tokio::test]
async fn uploads_are_listed_by_key_and_rolled_up() {
    let door = Door::open().await;
    let client = door.client();
    for key in ["a/1", "a/2", "b", "b", "c/1", "d"] {
        start(&client, key).await;
    }
    let list = |query: Vec<(&'static str, String)>| {
        let request = client.get(&format!("/{BUCKET}")).query("uploads", "");
        query.iter().fold(request, |request, (k, v)| request.query(k, v)).send()
    };
    assert_eq!(list(vec![]).await.ok().all("Key"), ["a/1", "a/2", "b", "b", "c/1", "d"]);
    assert_eq!(list(vec![("prefix", "a/".into())]).await.ok().all("Key"), ["a/1", "a/2"]);
    let rolled = list(vec![("delimiter", "/".into())]).await.ok();
    assert_eq!(
        (rolled.all("Key"), rolled.text().matches("<CommonPrefixes>").count()),
        (vec!["b".to_owned(), "b".into(), "d".into()], 2)
    );
    let (mut keys, mut prefixes, mut markers) = (Vec::new(), 0, (String::new(), String::new()));
    for _ in 0..6 {
        let page = list(vec![
            ("delimiter", "/".into()),
            ("max-uploads", "1".into()),
            ("key-marker", markers.0.clone()),
            ("upload-id-marker", markers.1.clone()),
        ]);
        let page = page.await.ok();
        keys.extend(page.all("Key"));
        prefixes += page.text().matches("<CommonPrefixes>").count();
        markers = (page.xml("NextKeyMarker"), page.xml("NextUploadIdMarker"));
        if page.xml("IsTruncated") == "false" {
            break;
        }
    }
    assert_eq!((keys, prefixes), (vec!["b".to_owned(), "b".into(), "d".into()], 2));
}

#[tokio::test]
async fn parts_can_be_copied_from_objects() {
    let door = Door::open().await;
    let client = door.client();
    let source = noise(6 * MIB, 5);
    client.put(&path("source")).body(source.clone()).send().await.ok();
    for algorithm in [None, Some("CRC32")] {
        let create = client.post(&path("k")).query("uploads", "");
        let create = algorithm.iter().fold(create, |r, a| r.header("x-amz-checksum-algorithm", a));
        let id = create.send().await.ok().xml("UploadId");
        let copy =
            |number: u32| part(&client, "k", &id, number, Bytes::new()).header("x-amz-copy-source", "bucket/source");
        let first = copy(1).send().await.ok();
        let second = copy(2).header("x-amz-copy-source-range", "bytes=100-199").send().await.ok();
        assert_eq!(!first.xml("ChecksumCRC32").is_empty(), algorithm.is_some());
        copy(3).header("x-amz-copy-source-range", "bytes=0-99999999").send().await.refused(416, "InvalidRange");
        copy(3).header("x-amz-copy-source-range", "bytes=-5").send().await.refused(400, "InvalidArgument");
        copy(3).header("x-amz-copy-source-if-match", "\"x\"").send().await.refused(412, "PreconditionFailed");
        let parts = [(1, first.xml("ETag")), (2, second.xml("ETag"))];
        let parts: Vec<(u32, &str)> = parts.iter().map(|(n, etag)| (*n, etag.as_str())).collect();
        complete(&client, "k", &id, &parts).send().await.ok();
        let whole = [&source[..], &source[100..200]].concat();
        assert_eq!(client.get(&path("k")).send().await.ok().body, whole);
    }
}

#[tokio::test]
async fn checksums_of_uploads_are_composite_or_of_the_whole() {
    let door = Door::open().await;
    let client = door.client();
    let (one, two) = (noise(5 * MIB, 1), noise(1000, 2));
    let whole = [one.clone(), two.clone()].concat();
    let joined: Vec<u8> = [&one, &two]
        .iter()
        .flat_map(|p| (crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, p) as u32).to_be_bytes())
        .collect();
    let composite = format!("{}-2", crc32(&joined));
    for (kind, expected) in [("COMPOSITE", composite), ("FULL_OBJECT", crc32(&whole))] {
        let create = client
            .post(&path("k"))
            .query("uploads", "")
            .header("x-amz-checksum-algorithm", "CRC32")
            .header("x-amz-checksum-type", kind);
        let created = create.send().await.ok();
        assert_eq!(created.header("x-amz-checksum-type"), Some(kind));
        let id = created.xml("UploadId");
        let first =
            part(&client, "k", &id, 1, one.clone()).header("x-amz-checksum-crc32", &crc32(&one)).send().await.ok();
        let second = part(&client, "k", &id, 2, two.clone()).send().await.ok();
        assert_eq!(second.header("x-amz-checksum-crc32"), Some(crc32(&two).as_str()), "computed when not sent");
        part(&client, "k", &id, 3, two.clone())
            .header("x-amz-checksum-sha1", &base64(&[0; 20]))
            .send()
            .await
            .refused(400, "InvalidRequest");
        let xml = |sum: &str| {
            format!(
                "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag><ChecksumCRC32>{sum}</ChecksumCRC32></Part><Part><PartNumber>2</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
                first.header("etag").unwrap(),
                second.header("etag").unwrap()
            )
        };
        let done = |sum: &str| client.post(&path("k")).query("uploadId", &id).body(xml(sum));
        done(&crc32(b"other")).send().await.refused(400, "InvalidPart");
        done(&crc32(&one)).header("x-amz-checksum-crc32", &crc32(b"other")).send().await.refused(400, "BadDigest");
        let reply = done(&crc32(&one)).header("x-amz-checksum-crc32", &expected).send().await.ok();
        assert_eq!(reply.xml("ChecksumCRC32"), expected);
        let head = client.head(&path("k")).header("x-amz-checksum-mode", "ENABLED").send().await.ok();
        assert_eq!(
            (head.header("x-amz-checksum-crc32"), head.header("x-amz-checksum-type")),
            (Some(expected.as_str()), Some(kind))
        );
    }
    let create = client
        .post(&path("k"))
        .query("uploads", "")
        .header("x-amz-checksum-algorithm", "SHA256")
        .header("x-amz-checksum-type", "FULL_OBJECT");
    create.send().await.refused(400, "InvalidRequest");
}
