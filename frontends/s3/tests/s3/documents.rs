//! XML documents, and what their heads say that they hash to.

use crate::client::*;

/// A document that did not match its `x-amz-content-sha256` was an internal error, which clients send again.
#[tokio::test]
async fn documents_that_do_not_match_their_hashes_are_refused() {
    let door = Door::open().await;
    let client = door.client();
    client.put(&path("k")).body("x").send().await.ok();
    let id = client.post(&path("parts")).query("uploads", "").send().await.ok().xml("UploadId");
    let part = client.put(&path("parts")).query("partNumber", "1").query("uploadId", &id).body("y").send().await.ok();
    let etag = part.header("etag").unwrap();
    let bucket = format!("/{BUCKET}");
    let delete = "<Delete><Object><Key>k</Key></Object></Delete>";
    // Comes in several pieces.
    let long = format!("<Delete><Object><Key>k</Key></Object>{}</Delete>", " ".repeat(1 << 20));
    let versioning = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let tagging = "<Tagging><TagSet><Tag><Key>b</Key><Value>2</Value></Tag></TagSet></Tagging>";
    let parts = format!("<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>");
    let complete = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    let requests = || {
        [
            (client.post(&bucket), "delete", "", delete),
            (client.post(&bucket), "delete", "", &long),
            (client.put(&bucket), "versioning", "", versioning),
            (client.put(&path("k")), "tagging", "", tagging),
            (client.post(&path("parts")), "uploadId", id.as_str(), &complete),
        ]
    };
    for (request, name, value, xml) in requests() {
        let request = request.query(name, value).body(xml.to_owned());
        request.hash(&sha256(b"something else")).send().await.refused(400, "XAmzContentSHA256Mismatch");
    }
    for (request, name, value, xml) in requests() {
        let digest = base64(&md5(b"something else"));
        let request = request.query(name, value).header("content-md5", &digest).body(xml.to_owned());
        request.send().await.refused(400, "BadDigest");
    }
    assert_eq!(door.keys().await, ["k"]);
    assert_eq!(client.get(&bucket).query("versioning", "").send().await.ok().xml("Status"), "");
    assert!(client.get(&path("k")).query("tagging", "").send().await.ok().all("Key").is_empty());

    let stating = |name: &str, value: &[u8]| {
        client.post(&bucket).query("delete", "").header(name, &base64(value)).body(delete).send()
    };
    stating("x-amz-checksum-sha256", &[0; 32]).await.refused(400, "BadDigest");
    stating("content-md5", &md5(delete.as_bytes())).await.ok();
    assert!(door.keys().await.is_empty());
}

#[tokio::test]
async fn a_document_that_is_not_there_must_match_too() {
    let door = Door::open().await;
    let create = |client: Client| client.put("/second-bucket").hash(&sha256(b"something else")).send();
    create(door.client()).await.refused(400, "XAmzContentSHA256Mismatch");
    let stranger = Client { secret: "wrong".into(), ..door.client() };
    create(stranger).await.refused(403, "SignatureDoesNotMatch");
    // MD5 of one byte, in base64.
    let create = door.client().put("/second-bucket").header("content-md5", "DMF1ucDxtqgxw5niaXcmYQ==");
    create.send().await.refused(400, "BadDigest");
    assert_eq!(door.client().head("/second-bucket").send().await.status, 404);
    door.client().put("/second-bucket").send().await.ok();
}
