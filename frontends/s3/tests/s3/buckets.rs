//! Buckets and the configurations they don't have.

use crate::client::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn buckets_are_made_found_listed_and_dropped() {
    let door = Door::open().await;
    let client = door.client();
    let made = client.put("/second-bucket").body("<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>eu-central-1</LocationConstraint></CreateBucketConfiguration>").send().await.ok();
    assert_eq!(made.header("location"), Some("/second-bucket"));
    client.put("/second-bucket").send().await.refused(409, "BucketAlreadyOwnedByYou");
    for bad in ["/ab", "/Upper", "/under_score", "/a..b", "/192.168.0.1"] {
        client.put(bad).send().await.refused(400, "InvalidBucketName");
    }
    client.get("/Upper").send().await.refused(400, "InvalidBucketName");
    assert_eq!(client.head("/second-bucket").send().await.status, 200);
    assert_eq!(client.head("/third-bucket").send().await.status, 404);
    let list = client.get("/").send().await.ok();
    assert_eq!(list.all("Name"), [BUCKET, "second-bucket"]);
    assert_eq!(list.all("CreationDate").len(), 2);
    let page = client.get("/").query("max-buckets", "1").send().await.ok();
    assert_eq!(page.all("Name"), [BUCKET]);
    let page = client.get("/").query("continuation-token", &page.xml("ContinuationToken")).send().await.ok();
    assert_eq!((page.all("Name"), page.xml("ContinuationToken").as_str()), (vec!["second-bucket".to_owned()], ""));
    assert_eq!(client.get("/").query("prefix", "sec").send().await.all("Name"), ["second-bucket"]);
    client.put("/second-bucket/k").body("x").send().await.ok();
    client.delete("/second-bucket").send().await.refused(409, "BucketNotEmpty");
    client.delete("/second-bucket/k").send().await.ok();
    assert_eq!(client.delete("/second-bucket").send().await.status, 204);
    client.delete("/second-bucket").send().await.refused(404, "NoSuchBucket");
    client.get("/second-bucket/k").send().await.refused(404, "NoSuchBucket");
}

#[tokio::test]
async fn probes_get_the_answers_of_an_unconfigured_bucket() {
    let door = Door::open().await;
    let client = door.client();
    let probe = |what: &str| client.get(&format!("/{BUCKET}")).query(what, "").send();
    for (what, status, code) in [
        ("encryption", 404, "ServerSideEncryptionConfigurationNotFoundError"),
        ("policy", 404, "NoSuchBucketPolicy"),
        ("policyStatus", 404, "NoSuchBucketPolicy"),
        ("cors", 404, "NoSuchCORSConfiguration"),
        ("lifecycle", 404, "NoSuchLifecycleConfiguration"),
        ("tagging", 404, "NoSuchTagSet"),
        ("website", 404, "NoSuchWebsiteConfiguration"),
        ("replication", 404, "ReplicationConfigurationNotFoundError"),
        ("object-lock", 404, "ObjectLockConfigurationNotFoundError"),
        ("publicAccessBlock", 404, "NoSuchPublicAccessBlockConfiguration"),
        ("inventory", 501, "NotImplemented"),
    ] {
        probe(what).await.refused(status, code);
        if status == 404 {
            client.get("/missing-bucket").query(what, "").send().await.refused(404, "NoSuchBucket");
        }
    }
    assert!(probe("location").await.ok().text().contains("LocationConstraint"));
    assert_eq!(probe("requestPayment").await.ok().xml("Payer"), "BucketOwner");
    assert_eq!(probe("ownershipControls").await.ok().xml("ObjectOwnership"), "BucketOwnerEnforced");
    assert_eq!(probe("acl").await.ok().xml("Permission"), "FULL_CONTROL");
    for what in ["logging", "notification", "accelerate"] {
        probe(what).await.ok();
    }
    client.put(&path("k")).body("x").send().await.ok();
    assert_eq!(client.get(&path("k")).query("acl", "").send().await.ok().xml("Permission"), "FULL_CONTROL");
    client.put(&format!("/{BUCKET}")).query("policy", "").body("{}").send().await.refused(501, "NotImplemented");
}

#[tokio::test]
async fn a_door_that_closes_finishes_what_it_began() {
    let door = Door::open().await;
    let client = door.client();
    // The request is under way when the door is asked to close: it has asked for its body.
    let request = client.put(&path("late")).hash("UNSIGNED-PAYLOAD").build();
    let mut head = format!("PUT {} HTTP/1.1\r\ncontent-length: 6\r\nexpect: 100-continue\r\n", request.uri());
    for (name, value) in request.headers() {
        head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    let mut stream = tokio::net::TcpStream::connect(door.address).await.unwrap();
    stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    let mut answer = vec![0; 25];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    let (segment, closing) = (door.segment.clone(), tokio::spawn(door.close()));
    stream.write_all(b"halves").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    closing.await.unwrap();
    let path = tombolo_core::BucketPath::new("west", "lab", BUCKET).unwrap();
    let object = segment.bucket(&path).await.unwrap().get("late", Default::default()).await.unwrap();
    assert_eq!(object.info().size, 6);
}

#[tokio::test]
async fn a_bucket_of_s3_shows_one_object_under_a_key() {
    let door = Door::open().await;
    let bucket = door.segment.bucket(&format!("west/lab/{BUCKET}").parse().unwrap()).await.unwrap();
    assert_eq!(bucket.info().await.unwrap().policy.conflicts, tombolo_core::ConflictPolicy::LastWriterWins);
}

/// Virtual-hosted style, which most of AWS's SDKs use unless they are told not to.
#[tokio::test]
async fn a_host_below_the_domain_names_the_bucket() {
    let door = Door::open().await;
    let client = door.client();
    let hosted = |request: Request| request.header("host", &format!("{BUCKET}.{DOMAIN}:9000"));
    let (type_, body) = ("text/plain", noise(100_000, 1));
    hosted(client.put("/dir/key")).header("content-type", type_).body(body.clone()).send().await.ok();
    let got = client.get(&path("dir/key")).send().await.ok();
    assert_eq!((&got.body, got.header("content-type")), (&body, Some(type_)));
    assert_eq!(hosted(client.get("/dir/key")).send().await.ok().body, body);
    assert_eq!(hosted(client.get("/dir/key")).sign(Sign::Query { expires_s: 60 }).send().await.ok().body, body);
    assert_eq!(hosted(client.get("/")).query("list-type", "2").send().await.ok().all("Key"), ["dir/key"]);
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
    hosted(client.put("/dir/key")).query("tagging", "").body(tags).send().await.ok();
    let chunked = hosted(client.put("/chunked")).body(body.clone()).signed_chunks(8192, &[], false);
    chunked.send().await.ok();
    let (upload, complete) = (client.post("/parts").query("uploads", ""), client.post("/parts"));
    let id = hosted(upload).send().await.ok().xml("UploadId");
    let part = hosted(client.put("/parts")).query("uploadId", &id).query("partNumber", "1").body("part");
    let etag = part.send().await.ok().header("etag").unwrap().to_owned();
    let list = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    let done = hosted(complete).query("uploadId", &id).body(list).send().await.ok();
    assert_eq!(done.xml("Location"), "/parts");
    let copy = client.put("/copy").header("x-amz-copy-source", &format!("{BUCKET}/parts"));
    hosted(copy).send().await.ok();
    assert_eq!(door.keys().await, ["chunked", "copy", "dir/key", "parts"]);
    // The bucket is the host's: no bucket called "dir", and none of another tenant's.
    client.get("/dir").send().await.refused(404, "NoSuchBucket");
    let other = door.client_of("OTHERKEY");
    hosted(other.get("/dir/key")).send().await.refused(404, "NoSuchBucket");
    // A host that was not signed would let a captured request be sent to another bucket.
    hosted(client.get("/dir/key")).sign(Sign::Not).send().await.refused(403, "AccessDenied");
    // The domain itself, other hosts and addresses have the bucket in the path.
    for host in [DOMAIN.to_owned(), format!("{DOMAIN}:80"), "elsewhere.example.com".into()] {
        let listed = client.get(&format!("/{BUCKET}")).header("host", &host).send().await.ok();
        assert_eq!(listed.all("Key").len(), 4, "{host}");
    }
    hosted(client.delete("/copy")).send().await.ok();
    hosted(client.put("/")).send().await.refused(409, "BucketAlreadyOwnedByYou");
    client.put("/").header("host", &format!("fresh.{DOMAIN}")).send().await.ok();
    client.head("/fresh").send().await.ok();
}
