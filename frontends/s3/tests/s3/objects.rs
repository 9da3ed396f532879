//! Put, get, head, delete, ranges, metadata, tags, checksums.

use crate::client::*;

#[tokio::test]
async fn an_object_comes_back_with_all_that_was_said_about_it() {
    let door = Door::open().await;
    let client = door.client();
    let headers = [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-disposition", "attachment; filename=\"a.txt\""),
        ("content-encoding", "gzip"),
        ("content-language", "de"),
        ("cache-control", "max-age=60"),
        ("expires", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("x-amz-website-redirect-location", "/elsewhere"),
        ("x-amz-meta-author", "me"),
        ("x-amz-meta-empty-not", "a b"),
    ];
    for size in [0usize, 1, 4096, 65_536, 65_537, 3_000_000] {
        let content = noise(size, size as u64);
        let key = path(&format!("dir/{size}"));
        let put = headers.iter().fold(client.put(&key), |request, (k, v)| request.header(k, v));
        let put = put.header("x-amz-tagging", "a=1&b=2").body(content.clone()).send().await.ok();
        let etag = format!("\"{}\"", hex(&md5(&content)));
        assert_eq!(put.header("etag"), Some(etag.as_str()));

        let get = client.get(&key).send().await.ok();
        assert_eq!(get.body, content, "{size}");
        let head = client.head(&key).send().await.ok();
        assert!(head.body.is_empty());
        for reply in [&get, &head] {
            for (name, value) in headers {
                assert_eq!(reply.header(name), Some(value), "{name}");
            }
            assert_eq!(reply.header("etag"), Some(etag.as_str()));
            assert_eq!(reply.header("content-length"), Some(size.to_string().as_str()));
            assert_eq!(reply.header("accept-ranges"), Some("bytes"));
            assert_eq!(reply.header("x-amz-tagging-count"), Some("2"));
            assert!(reply.header("last-modified").unwrap().ends_with("GMT"));
            assert!(reply.header("x-amz-request-id").is_some());
            assert_eq!(reply.header("x-amz-version-id"), None);
        }
    }
    let get = client
        .get(&path("dir/1"))
        .query("response-content-type", "a/b")
        .query("response-cache-control", "no-cache")
        .query("response-content-disposition", "inline")
        .query("response-content-language", "fr")
        .query("response-content-encoding", "identity")
        .query("response-expires", "Thu, 01 Jan 1970 00:00:00 GMT")
        .send()
        .await
        .ok();
    for (name, value) in [
        ("content-type", "a/b"),
        ("cache-control", "no-cache"),
        ("content-disposition", "inline"),
        ("content-language", "fr"),
        ("content-encoding", "identity"),
        ("expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ] {
        assert_eq!(get.header(name), Some(value));
    }
    let plain = client.put(&path("plain")).body("x").send().await.ok();
    assert_eq!(plain.header("x-amz-version-id"), None);
    assert_eq!(client.get(&path("plain")).send().await.header("content-type"), Some("binary/octet-stream"));
}

/// S3 keeps `Expires` as it came and never looks at it; one that is no date was refused.
#[tokio::test]
async fn an_expires_that_is_no_date_comes_back_as_it_came() {
    let door = Door::open().await;
    let client = door.client();
    let content = noise(200_000, 1);
    let sum = crc32(&content);
    for text in ["0", "Thu, 1 Dec 2026", "Mon, 21 Oct 2015 07:28:00 GMT"] {
        let put = |key: &str| client.put(&path(key)).header("expires", text);
        put("plain").body("x").send().await.ok();
        put("url").sign(Sign::Query { expires_s: 60 }).body("x").send().await.ok();
        let chunked = put("chunked").body(content.clone()).chunked(65_536, &[("x-amz-checksum-crc32", &sum)]);
        assert_eq!(chunked.send().await.ok().header("x-amz-checksum-crc32"), Some(sum.as_str()));
        assert_eq!(client.get(&path("chunked")).send().await.ok().body, content);
        let copy = put("copy").header("x-amz-copy-source", "bucket/plain");
        copy.header("x-amz-metadata-directive", "REPLACE").send().await.ok();
        client.put(&path("kept")).header("x-amz-copy-source", "bucket/plain").send().await.ok();
        let id = client.post(&path("parts")).query("uploads", "").header("expires", text);
        let id = id.send().await.ok().xml("UploadId");
        let part = client.put(&path("parts")).query("partNumber", "1").query("uploadId", &id).body("x");
        let part = part.send().await.ok();
        let etag = part.header("etag").unwrap();
        let list = format!("<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>");
        let xml = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
        client.post(&path("parts")).query("uploadId", &id).body(xml).send().await.ok();
        for key in ["plain", "url", "chunked", "copy", "kept", "parts"] {
            for request in [client.get(&path(key)), client.head(&path(key))] {
                assert_eq!(request.send().await.ok().header("expires"), Some(text), "{key}");
            }
        }
        let epoch = "Thu, 01 Jan 1970 00:00:00 GMT";
        for request in [client.get(&path("plain")), client.head(&path("plain"))] {
            assert_eq!(request.query("response-expires", epoch).send().await.ok().header("expires"), Some(epoch));
        }
        put("plain").body("y").hash(&sha256(b"x")).send().await.refused(400, "XAmzContentSHA256Mismatch");
        put("plain").skew(-3600).send().await.refused(403, "RequestTimeTooSkewed");
    }
}

#[tokio::test]
async fn every_key_of_s3_is_a_key() {
    let door = Door::open().await;
    let client = door.client();
    let long = "k".repeat(1024);
    let keys = [
        "a",
        "a/",
        "a/b",
        "a//b",
        "/lead",
        "//",
        ".",
        "..",
        "./x",
        "../x",
        "a/./b",
        "a/../b",
        "trail/",
        "ä ö+&?#%=;:@,$'\"<>\\",
        "with\nnewline",
        "日本語/ファイル",
        long.as_str(),
    ];
    for key in keys {
        let reply = client.put(&path(key)).body(key.to_owned()).send().await;
        assert_eq!(reply.status, 200, "{key:?}: {}", reply.text());
    }
    for key in keys {
        assert_eq!(client.get(&path(key)).send().await.ok().body, key, "{key:?}");
        assert_eq!(client.head(&path(key)).send().await.status, 200, "{key:?}");
    }
    let mut sorted: Vec<String> = keys.iter().map(|k| encode(k.as_bytes(), true)).collect();
    sorted.sort_by_key(|k| percent_encoding::percent_decode_str(k).collect::<Vec<u8>>());
    let list =
        client.get(&format!("/{BUCKET}")).query("list-type", "2").query("encoding-type", "url").send().await.ok();
    assert_eq!(list.all("Key"), sorted);
    client.put(&path(&"k".repeat(1025))).body("x").send().await.refused(400, "KeyTooLongError");
    for key in keys {
        assert_eq!(client.delete(&path(key)).send().await.status, 204, "{key:?}");
    }
    assert!(door.keys().await.is_empty(), "no placeholder is left behind");
    assert_eq!(client.delete(&format!("/{BUCKET}")).send().await.status, 204);
}

#[tokio::test]
async fn ranges_are_206_without_the_whole_objects_checksum() {
    let door = Door::open().await;
    let client = door.client();
    let content = noise(300_000, 7);
    client.put(&path("k")).header("x-amz-checksum-crc32", &crc32(&content)).body(content.clone()).send().await.ok();
    let get =
        |range: &str| client.get(&path("k")).header("range", range).header("x-amz-checksum-mode", "ENABLED").send();
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199999", 100, 200_000),
        ("bytes=299990-", 299_990, 300_000),
        ("bytes=-10", 299_990, 300_000),
        ("bytes=0-999999", 0, 300_000),
    ] {
        let reply = get(range).await;
        assert_eq!(reply.status, 206, "{range}");
        assert_eq!(reply.body, content.slice(from..to), "{range}");
        assert_eq!(reply.header("content-range"), Some(format!("bytes {from}-{}/300000", to - 1).as_str()));
        assert_eq!(reply.header("content-length"), Some((to - from).to_string().as_str()));
        assert_eq!(reply.header("x-amz-checksum-crc32"), None, "a range does not carry the whole object's checksum");
    }
    let head = client.head(&path("k")).header("range", "bytes=1-2").send().await;
    assert_eq!((head.status, head.header("content-range")), (206, Some("bytes 1-2/300000")));
    let reply = get("bytes=300000-").await;
    reply.refused(416, "InvalidRange");
    assert_eq!(reply.header("content-range"), Some("bytes */300000"));
    for whole in ["bytes=0-1,5-6", "lines=1-2", "bytes=5-1"] {
        let reply = get(whole).await;
        assert_eq!((reply.status, reply.body.len()), (200, 300_000), "{whole}");
        assert_eq!(reply.header("x-amz-checksum-crc32"), Some(crc32(&content).as_str()));
    }
    client.put(&path("empty")).send().await.ok();
    client.get(&path("empty")).header("range", "bytes=0-").send().await.refused(416, "InvalidRange");
    let part = client.get(&path("k")).query("partNumber", "1").send().await;
    assert_eq!((part.status, part.body.len()), (206, 300_000));
    client.get(&path("k")).query("partNumber", "2").send().await.refused(416, "InvalidPartNumber");
}

#[tokio::test]
async fn checksums_are_verified_kept_and_given_back() {
    let door = Door::open().await;
    let client = door.client();
    for size in [100usize, 200_000] {
        let content = noise(size, 3);
        let sums = [
            ("x-amz-checksum-crc32", crc32(&content)),
            (
                "x-amz-checksum-crc32c",
                base64(&(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &content) as u32).to_be_bytes()),
            ),
            (
                "x-amz-checksum-crc64nvme",
                base64(&crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &content).to_be_bytes()),
            ),
            (
                "x-amz-checksum-sha1",
                base64(&{
                    use sha1::Digest as _;
                    sha1::Sha1::digest(&content)
                }),
            ),
            (
                "x-amz-checksum-sha256",
                base64(&{
                    use sha2::Digest as _;
                    sha2::Sha256::digest(&content)
                }),
            ),
        ];
        for (name, value) in &sums {
            let key = path(&format!("{name}-{size}"));
            let put = client.put(&key).header(name, value).body(content.clone()).send().await.ok();
            assert_eq!(put.header(name), Some(value.as_str()));
            let head = client.head(&key).header("x-amz-checksum-mode", "ENABLED").send().await.ok();
            assert_eq!(head.header(name), Some(value.as_str()));
            assert_eq!(head.header("x-amz-checksum-type"), Some("FULL_OBJECT"));
            assert_eq!(client.get(&key).send().await.ok().header(name), None, "only when asked");
            let attributes = client
                .get(&key)
                .query("attributes", "")
                .header("x-amz-object-attributes", "Checksum,ObjectSize,ETag,StorageClass");
            let attributes = attributes.send().await.ok();
            assert!(attributes.text().contains(value.as_str()), "{}", attributes.text());
            assert_eq!(attributes.xml("ObjectSize"), size.to_string());

            let bad = noise(size, 4);
            client.put(&path("bad")).header(name, value).body(bad.clone()).send().await.refused(400, "BadDigest");
            client.put(&path("bad")).header(name, "AAAA").body(bad).send().await.refused(400, "InvalidRequest");
        }
        let digest = base64(&md5(&content));
        client
            .put(&path(&format!("md5-{size}")))
            .header("content-md5", &digest)
            .body(content.clone())
            .send()
            .await
            .ok();
        client
            .put(&path("bad"))
            .header("content-md5", &digest)
            .body(noise(size, 5))
            .send()
            .await
            .refused(400, "BadDigest");
        client
            .put(&path("bad"))
            .header("content-md5", "AAAA")
            .body(content.clone())
            .send()
            .await
            .refused(400, "InvalidDigest");
        let wrong = sha256(b"something else");
        client
            .put(&path("bad"))
            .hash(&wrong)
            .body(content.clone())
            .send()
            .await
            .refused(400, "XAmzContentSHA256Mismatch");
        client.put(&path("unsigned")).hash("UNSIGNED-PAYLOAD").body(content).send().await.ok();
    }
    assert!(!door.keys().await.contains(&"bad".to_owned()), "a refused upload leaves nothing");
    // Those that nothing here can verify are not taken as if it could.
    for name in ["md5", "sha512", "xxhash64", "xxhash3", "xxhash128"] {
        let name = format!("x-amz-checksum-{name}");
        let put = client.put(&path("unknown")).body("hello");
        put.header(&name, "AAAAAAAAAAAAAAAAAAAAAA==").send().await.refused(501, "NotImplemented");
        let put = client.put(&path("unknown")).body("hello").chunked(5, &[(&name, "AAAAAAAAAAAAAAAAAAAAAA==")]);
        put.send().await.refused(501, "NotImplemented");
    }
    assert_eq!(client.head(&path("unknown")).send().await.status, 404);
}

#[tokio::test]
async fn a_body_of_the_wrong_length_leaves_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let door = Door::open().await;
    for size in [1000usize, 1_000_000] {
        let request = door.client().put(&path("cut")).hash("UNSIGNED-PAYLOAD").body(noise(size, 1)).build();
        let mut head = format!("PUT {} HTTP/1.1\r\ncontent-length: {size}\r\n", request.uri());
        for (name, value) in request.headers() {
            head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
        }
        let mut stream = tokio::net::TcpStream::connect(door.address).await.unwrap();
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        stream.write_all(&noise(size - 1, 1)).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    assert!(door.keys().await.is_empty());
}

#[tokio::test]
async fn metadata_has_limits_and_unkept_promises_are_refused() {
    let door = Door::open().await;
    let client = door.client();
    client.put(&path("k")).header("x-amz-meta-a", &"v".repeat(2047)).body("x").send().await.ok();
    client
        .put(&path("k"))
        .header("x-amz-meta-a", &"v".repeat(2048))
        .body("x")
        .send()
        .await
        .refused(400, "MetadataTooLarge");
    client
        .put(&path("k"))
        .header("x-amz-server-side-encryption", "AES256")
        .body("x")
        .send()
        .await
        .refused(501, "NotImplemented");
    client
        .put(&path("k"))
        .header("x-amz-acl", "public-read")
        .body("x")
        .send()
        .await
        .refused(400, "AccessControlListNotSupported");
    client
        .put(&path("k"))
        .header("x-amz-storage-class", "GLACIER")
        .body("x")
        .send()
        .await
        .refused(400, "InvalidStorageClass");
    client
        .put(&path("k"))
        .header("x-amz-acl", "private")
        .header("x-amz-storage-class", "STANDARD")
        .body("x")
        .send()
        .await
        .ok();
}

#[tokio::test]
async fn deletes_are_idempotent_and_many_at_once() {
    let door = Door::open().await;
    let client = door.client();
    for key in ["a", "b/c", "b/d", "e&f"] {
        client.put(&path(key)).body(key.to_owned()).send().await.ok();
    }
    assert_eq!(client.delete(&path("a")).send().await.status, 204);
    assert_eq!(client.delete(&path("a")).send().await.status, 204);
    client.get(&path("a")).send().await.refused(404, "NoSuchKey");
    assert_eq!(client.head(&path("a")).send().await.status, 404);
    let many = |xml: &'static str| client.post(&format!("/{BUCKET}")).query("delete", "").body(xml);
    let xml = "<Delete><Object><Key>b/c</Key></Object><Object><Key>never</Key></Object></Delete>";
    let reply = many(xml).header("content-md5", &base64(&md5(xml.as_bytes()))).send().await.ok();
    assert_eq!(reply.all("Key"), ["b/c", "never"]);
    assert!(reply.all("Error").is_empty());
    let xml = "<Delete><Object><Key>b/d</Key></Object><Quiet>true</Quiet></Delete>";
    let reply = many(xml).header("x-amz-checksum-crc32", &crc32(xml.as_bytes())).send().await.ok();
    assert!(reply.all("Deleted").is_empty(), "quiet");
    let xml = "<Delete><Object><Key>e&amp;f</Key></Object></Delete>";
    many(xml).header("content-md5", &base64(&md5(b"other"))).send().await.refused(400, "BadDigest");
    many(xml).header("x-amz-checksum-crc32", &crc32(b"other")).send().await.refused(400, "BadDigest");
    many(xml).hash(&sha256(b"other")).send().await;
    assert_eq!(door.keys().await, ["e&f"], "what is refused deletes nothing");
    many("<Delete></Delete>").send().await.refused(400, "MalformedXML");
    many("<Delete><Object>").send().await.refused(400, "MalformedXML");
    let too_many: String = (0..1001).map(|i| format!("<Object><Key>{i}</Key></Object>")).collect();
    let reply = client
        .post(&format!("/{BUCKET}"))
        .query("delete", "")
        .body(format!("<Delete>{too_many}</Delete>"))
        .send()
        .await;
    reply.refused(400, "MalformedXML");
    let xml = "<Delete><Object><Key>e&amp;f</Key><VersionId>nonsense</VersionId></Object></Delete>";
    let reply = many(xml).send().await.ok();
    assert_eq!(reply.xml("Code"), "InvalidArgument");
}

#[tokio::test]
async fn tags_can_be_replaced_and_removed() {
    let door = Door::open().await;
    let client = door.client();
    client.put(&path("k")).header("x-amz-tagging", "a=1").body("x").send().await.ok();
    let tags = || client.get(&path("k")).query("tagging", "").send();
    assert_eq!((tags().await.all("Key"), tags().await.all("Value")), (vec!["a".to_owned()], vec!["1".to_owned()]));
    let set = |xml: &'static str| client.put(&path("k")).query("tagging", "").body(xml).send();
    set("<Tagging><TagSet><Tag><Key>b</Key><Value>2</Value></Tag></TagSet></Tagging>").await.ok();
    assert_eq!(tags().await.all("Key"), ["b"]);
    let twice = "<Tagging><TagSet><Tag><Key>b</Key><Value>2</Value></Tag><Tag><Key>b</Key><Value>3</Value></Tag></TagSet></Tagging>";
    set(twice).await.refused(400, "InvalidTag");
    assert_eq!(client.delete(&path("k")).query("tagging", "").send().await.status, 204);
    assert!(tags().await.ok().all("Key").is_empty());
    client.get(&path("none")).query("tagging", "").send().await.refused(404, "NoSuchKey");
    let etag = client.head(&path("k")).send().await;
    assert_eq!(etag.header("etag"), Some(format!("\"{}\"", hex(&md5(b"x"))).as_str()), "tags are not content");
}

/// What was set with `?tagging` stuck to the objects that came after, and versions that were replaced lost it.
#[tokio::test]
async fn tags_belong_to_the_object_that_they_were_set_on() {
    let door = Door::open().await;
    let client = door.client();
    let (key, tag) = (path("k"), "<Tagging><TagSet><Tag><Key>b</Key><Value>2</Value></Tag></TagSet></Tagging>");
    let tags = || client.get(&key).query("tagging", "").send();
    let set = || client.put(&key).query("tagging", "").body(tag).send();
    client.put(&key).body("1").send().await.ok();
    set().await.ok();
    client.put(&key).header("x-amz-tagging", "a=1").body("2").send().await.ok();
    assert_eq!(tags().await.ok().all("Key"), ["a"]);
    assert_eq!(client.delete(&key).query("tagging", "").send().await.status, 204);
    client.put(&key).header("x-amz-tagging", "c=1").body("3").send().await.ok();
    assert_eq!(tags().await.ok().all("Key"), ["c"]);

    let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    client.put(&format!("/{BUCKET}")).query("versioning", "").body(on).send().await.ok();
    let first = client.put(&key).body("4").send().await.ok();
    set().await.ok();
    client.put(&key).body("5").send().await.ok();
    assert!(tags().await.ok().all("Key").is_empty());
    let version = first.header("x-amz-version-id").unwrap().to_owned();
    let of_first = client.get(&key).query("tagging", "").query("versionId", &version).send().await.ok();
    assert_eq!(of_first.all("Key"), ["b"]);
}

/// RFC 9110, 13.1.5: the range is of the content that the client has, or it wants all of it.
#[tokio::test]
async fn a_range_of_something_else_gives_the_whole() {
    let door = Door::open().await;
    let client = door.client();
    let etag = client.put(&path("k")).body("first").send().await.ok().header("etag").unwrap().to_owned();
    let rest =
        |condition: String| client.get(&path("k")).header("range", "bytes=2-").header("if-range", &condition).send();
    let modified = client.head(&path("k")).send().await.header("last-modified").unwrap().to_owned();
    for same in [etag.clone(), modified] {
        let reply = rest(same).await;
        assert_eq!((reply.status, reply.body.as_ref()), (206, &b"rst"[..]));
    }
    client.put(&path("k")).body("second").send().await.ok();
    for other in [etag.clone(), format!("W/{etag}"), "Thu, 01 Jan 1970 00:00:00 GMT".into(), "nonsense".into()] {
        let reply = rest(other).await;
        assert_eq!((reply.status, reply.body.as_ref()), (200, &b"second"[..]));
    }
}

/// s3s takes what it does not know for the plain operation: a new kind of PUT replaced the object by its XML, and DELETE of a bucket's configuration deleted the bucket.
#[tokio::test]
async fn what_is_not_known_is_not_taken_for_something_else() {
    let door = Door::open().await;
    let client = door.client();
    client.put(&path("k")).body("x").send().await.ok();
    for name in ["encryption", "renameObject"] {
        client.put(&path("k")).query(name, "").body("<X/>").send().await.refused(501, "NotImplemented");
    }
    for name in ["uploadId", "partNumber"] {
        client.put(&path("k")).query(name, "1").body("y").send().await.refused(400, "InvalidArgument");
    }
    assert_eq!(client.get(&path("k")).send().await.ok().body.as_ref(), b"x");
    client.delete(&path("k")).send().await;
    for name in ["metadataConfiguration", "metadataInventoryTable", "metadataJournalTable", "abac"] {
        client.delete(&format!("/{BUCKET}")).query(name, "").send().await.refused(501, "NotImplemented");
    }
    assert_eq!(client.head(&format!("/{BUCKET}")).send().await.status, 200);
}
