//! Signatures, presigned URLs, tenants.

use crate::client::*;

#[tokio::test]
async fn nobody_gets_in_without_a_good_signature() {
    let door = Door::open().await;
    let client = door.client();
    client.put(&path("k")).body("x").send().await.ok();
    for path in ["/", "/bucket", "/bucket/k"] {
        client.get(path).sign(Sign::Not).send().await.refused(403, "AccessDenied");
    }
    client.put(&path("new")).sign(Sign::Not).body("x").send().await.refused(403, "AccessDenied");
    let wrong = Client { secret: "wrong".into(), ..client.clone() };
    wrong.get(&path("k")).send().await.refused(403, "SignatureDoesNotMatch");
    wrong.put(&path("new")).body("x").send().await.refused(403, "SignatureDoesNotMatch");
    let unknown = Client { access_key: "NOBODY".into(), ..client.clone() };
    unknown.get(&path("k")).send().await.refused(403, "InvalidAccessKeyId");
    client.get(&path("k")).skew(-16 * 60).send().await.refused(403, "RequestTimeTooSkewed");
    client.get(&path("k")).skew(16 * 60).send().await.refused(403, "RequestTimeTooSkewed");
    client.get(&path("k")).skew(-14 * 60).send().await.ok();
    client.put(&path("new")).unsigned_header("x-amz-meta-a", "b").body("x").send().await.refused(403, "AccessDenied");
    let v2 = client.get(&path("k")).sign(Sign::Not).header("authorization", "AWS LABKEY:c2ln").send().await;
    v2.refused(400, "InvalidRequest");
    assert_eq!(door.keys().await, ["k"]);
}

#[tokio::test]
async fn presigned_urls_work_until_they_expire() {
    let door = Door::open().await;
    let client = door.client();
    let sign = Sign::Query { expires_s: 60 };
    client.put(&path("a b")).sign(sign).body("presigned").send().await.ok();
    assert_eq!(client.get(&path("a b")).sign(sign).send().await.ok().body, "presigned");
    let meta = client.put(&path("m")).sign(sign).header("x-amz-meta-a", "b").body("x").send().await;
    assert_eq!(meta.status, 200, "{}", meta.text());
    assert_eq!(client.head(&path("m")).send().await.header("x-amz-meta-a"), Some("b"));
    client.get(&path("a b")).sign(sign).skew(-61).send().await.refused(403, "AccessDenied");
    client.get(&path("a b")).sign(sign).skew(16 * 60).send().await.refused(403, "RequestTimeTooSkewed");
    let long = Sign::Query { expires_s: 604_801 };
    client.get(&path("a b")).sign(long).send().await.refused(400, "AuthorizationQueryParametersError");
    let wrong = Client { secret: "wrong".into(), ..client.clone() };
    wrong.get(&path("a b")).sign(sign).send().await.refused(403, "SignatureDoesNotMatch");
    let other = client.get(&path("a b")).sign(sign).query("response-content-type", "x/y").send().await.ok();
    assert_eq!(other.header("content-type"), Some("x/y"));
    let range = client.get(&path("a b")).sign(sign).header("range", "bytes=0-1,3-4").send().await.ok();
    assert_eq!(range.body, "presigned", "several ranges are answered in full");
}

#[tokio::test]
async fn presigned_urls_of_the_older_kind_work_until_they_expire() {
    let door = Door::open().await;
    let client = door.client();
    client.put(&path("k")).body("x").send().await.ok();
    let now_s = tombolo_core::Environment::default().clock.now_ns() / 1_000_000_000;
    let get = |secret: &str, expires_s: i64| {
        let to_sign = format!("GET\n\n\n{expires_s}\n{}", path("k"));
        let signature = base64(&hmac_sha1(secret.as_bytes(), to_sign.as_bytes()));
        let request = client.get(&path("k")).sign(Sign::Not).query("AWSAccessKeyId", "LABKEY");
        request.query("Expires", &expires_s.to_string()).query("Signature", &signature)
    };
    assert_eq!(get(&client.secret, now_s + 60).send().await.ok().body, "x");
    let ranges = get(&client.secret, now_s + 60).header("range", "bytes=0-0,0-0").send().await.ok();
    assert_eq!(ranges.body, "x");
    get(&client.secret, now_s - 1).send().await.refused(403, "AccessDenied");
    get("wrong", now_s + 60).send().await.refused(403, "SignatureDoesNotMatch");
}

/// A presigned URL of the older kind signs the parameters that choose another operation, but for those that are there twice.
#[tokio::test]
async fn presigned_urls_of_the_older_kind_are_for_one_operation() {
    let door = Door::open().await;
    let client = door.client();
    client.put(&path("k")).body("x").send().await.ok();
    let expires_s = tombolo_core::Environment::default().clock.now_ns() / 1_000_000_000 + 60;
    let to_sign = format!("PUT\n\n\n{expires_s}\n{}", path("k"));
    let signature = base64(&hmac_sha1(client.secret.as_bytes(), to_sign.as_bytes()));
    let put = || {
        let request = client.put(&path("k")).sign(Sign::Not).query("AWSAccessKeyId", "LABKEY");
        request.query("Expires", &expires_s.to_string()).query("Signature", &signature)
    };
    let tagging = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
    let twice = put().query("tagging", "").query("tagging", "").body(tagging).send().await;
    twice.refused(400, "InvalidArgument");
    assert!(client.get(&path("k")).query("tagging", "").send().await.ok().all("Tag").is_empty());
    put().body("y").send().await.ok();
}

/// The door looks at how a request is signed before s3s checks that it is. Spelled so that the door saw no signature and s3s did, or so that the door took a
/// header for signed that s3s left out, whoever had a URL for one PUT could have any object of its tenant copied to there.
#[tokio::test]
async fn no_spelling_of_a_signature_lets_headers_in() {
    let door = Door::open().await;
    let client = door.client();
    client.put(&path("secret")).body("secret").send().await.ok();
    let copy = |sign: Sign| {
        let request = client.put(&path("k")).sign(sign).unsigned_header("x-amz-copy-source", "bucket/secret");
        request.build().into_parts()
    };
    let (mut parts, body) = copy(Sign::Query { expires_s: 60 });
    parts.uri = parts.uri.to_string().replace("X-Amz-", "X%2DAmz-").parse().unwrap();
    send(door.address, http::Request::from_parts(parts, body)).await.refused(403, "AccessDenied");
    for name in ["X-Amz-Copy-Source", "\u{e9}"] {
        let (mut parts, body) = copy(Sign::Header);
        let signed = parts.headers["authorization"].to_str().unwrap();
        let signed = signed.replace(", Signature", &format!(";{name}, Signature"));
        parts.headers.insert("authorization", http::HeaderValue::from_bytes(signed.as_bytes()).unwrap());
        send(door.address, http::Request::from_parts(parts, body)).await.refused(403, "AccessDenied");
    }
    // Ways to write the header that would be read once like this and once like that.
    let doubled = |signed: &str| {
        let fields = signed.strip_prefix("AWS4-HMAC-SHA256 ").unwrap();
        let decoy = "Credential=LABKEY/20260101/r/s3/aws4_request,SignedHeaders=host;x-amz-copy-source;x-amz-date;z";
        [format!("AWS4-HMAC-SHA256,{decoy} {fields}"), format!("AWS4-HMAC-SHA256 {decoy},{fields}")]
    };
    let blank = |signed: &str| {
        [" ", "\t", "\u{a0}"]
            .map(|blank| signed.replace(", Signature", &format!(";x-amz-copy-source{blank}, Signature")))
    };
    let (parts, _) = copy(Sign::Header);
    let signed = parts.headers["authorization"].to_str().unwrap().to_owned();
    for bent in doubled(&signed).into_iter().chain(blank(&signed)) {
        let (mut parts, body) = copy(Sign::Header);
        parts.headers.insert("authorization", http::HeaderValue::from_bytes(bent.as_bytes()).unwrap());
        let answer = send(door.address, http::Request::from_parts(parts, body)).await;
        assert!((400..500).contains(&answer.status), "{bent}: {}", answer.status);
    }
    assert_eq!(door.keys().await, ["secret"]);
    let (mut parts, body) = client.put(&path("k")).sign(Sign::Query { expires_s: 60 }).body("x").build().into_parts();
    parts.uri = parts.uri.to_string().replace("X-Amz-", "X%2DAmz-").parse().unwrap();
    send(door.address, http::Request::from_parts(parts, body)).await.ok();
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let door = Door::open().await;
    let (mine, theirs) = (door.client(), door.client_of("OTHERKEY"));
    mine.put(&path("k")).body("mine").send().await.ok();
    theirs.get(&path("k")).send().await.refused(404, "NoSuchBucket");
    theirs.put(&path("k")).body("x").send().await.refused(404, "NoSuchBucket");
    theirs.delete(&format!("/{BUCKET}")).send().await.refused(404, "NoSuchBucket");
    assert_eq!(theirs.head(&format!("/{BUCKET}")).send().await.status, 404);
    assert!(theirs.get("/").send().await.ok().all("Name").is_empty());
    theirs.put("/theirs").send().await.ok();
    let copy = theirs.put("/theirs/k").header("x-amz-copy-source", "bucket/k").send().await;
    copy.refused(404, "NoSuchBucket");
    theirs.put(&format!("/{BUCKET}")).send().await.ok();
    theirs.put(&path("k")).body("theirs").send().await.ok();
    assert_eq!(mine.get(&path("k")).send().await.ok().body, "mine", "two tenants may use one bucket name");
    assert_eq!(mine.get("/").send().await.all("Name"), [BUCKET]);
    assert_eq!(theirs.get("/").send().await.all("Name"), [BUCKET, "theirs"]);
    mine.get(&path("k")).header("x-amz-expected-bucket-owner", "lab").send().await.ok();
    mine.get(&path("k")).header("x-amz-expected-bucket-owner", "other").send().await.refused(403, "AccessDenied");
}

#[tokio::test]
async fn a_door_for_one_tenant_takes_its_keys_only() {
    let door = Door::open().await;
    let tenant = Some(tombolo_core::TenantPath::new("west", "other").unwrap());
    let options = tombolo_s3::S3Options { tenant, ..Default::default() };
    let second =
        tombolo_s3::S3Door::bind(door.segment.clone(), &["127.0.0.1:0".parse().unwrap()], options).await.unwrap();
    let address = second.addresses().unwrap()[0];
    let serving = tokio::spawn(second.serve(std::future::pending()));
    let at = |key: &str| Client { address, ..door.client_of(key) };
    at("OTHERKEY").get("/").send().await.ok();
    at("LABKEY").get("/").send().await.refused(403, "InvalidAccessKeyId");
    serving.abort();
}
