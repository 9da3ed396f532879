//! Uploads from HTML forms.

use crate::client::*;

const BOUNDARY: &str = "----form";

/// A form with a policy that allows keys under `user/` of up to 1 MiB, signed with this secret.
fn form(secret: &str, fields: &[(&str, &str)], file: &[u8]) -> (String, Vec<u8>) {
    let date = amz_date(0);
    let credential = format!("LABKEY/{}/anywhere/s3/aws4_request", &date[..8]);
    let policy = format!(
        r#"{{"expiration":"2099-01-01T00:00:00Z","conditions":[{{"bucket":"{BUCKET}"}},["starts-with","$key","user/"],
        ["starts-with","$success_action_status",""],["starts-with","$success_action_redirect",""],["starts-with","$x-amz-meta-a",""],
        ["starts-with","$Content-Type","text/"],["starts-with","$Expires",""],["starts-with","$x-amz-checksum-crc32",""],["content-length-range",1,1048576],
        {{"x-amz-algorithm":"AWS4-HMAC-SHA256"}},{{"x-amz-credential":"{credential}"}},{{"x-amz-date":"{date}"}}]}}"#
    );
    let policy = base64(policy.as_bytes());
    let signature = hex(&hmac(&signing_key(secret, &date[..8]), policy.as_bytes()));
    let mut all: Vec<(&str, &str)> = fields.to_vec();
    if !fields.iter().any(|(name, _)| *name == "Content-Type") {
        all.push(("Content-Type", "text/plain"));
    }
    all.extend([
        ("policy", policy.as_str()),
        ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
        ("x-amz-credential", &credential),
        ("x-amz-date", &date),
        ("x-amz-signature", &signature),
    ]);
    let mut body = Vec::new();
    for (name, value) in all {
        body.extend(
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").into_bytes(),
        );
    }
    body.extend(format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"cat.txt\"\r\nContent-Type: text/plain\r\n\r\n").into_bytes());
    body.extend_from_slice(file);
    body.extend(
        format!("\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"submit\"\r\n\r\nGo\r\n--{BOUNDARY}--\r\n")
            .into_bytes(),
    );
    (format!("multipart/form-data; boundary={BOUNDARY}"), body)
}

async fn post(door: &Door, secret: &str, fields: &[(&str, &str)], file: &[u8]) -> Reply {
    let (kind, body) = form(secret, fields, file);
    door.client().post(&format!("/{BUCKET}")).sign(Sign::Not).header("content-type", &kind).body(body).send().await
}

const SECRET: &str = "secret-of-LABKEY";

#[tokio::test]
async fn a_signed_form_stores_its_file() {
    let door = Door::open().await;
    for size in [1usize, 1000, 1 << 20] {
        let content = noise(size, 5);
        let fields =
            [("key", "user/${filename}"), ("x-amz-meta-a", "b"), ("Content-Type", "text/html"), ("Expires", "0")];
        let reply = post(&door, SECRET, &fields, &content).await;
        assert_eq!(reply.status, 204, "{}", reply.text());
        let get = door.client().get(&path("user/cat.txt")).send().await.ok();
        assert_eq!(get.body, content);
        assert_eq!((get.header("content-type"), get.header("x-amz-meta-a")), (Some("text/html"), Some("b")));
        assert_eq!(reply.header("etag"), get.header("etag"));
        assert_eq!(get.header("expires"), Some("0"), "it need not be a date");
    }
    let created = post(&door, SECRET, &[("key", "user/a b"), ("success_action_status", "201")], b"x").await;
    assert_eq!(
        (created.status, created.xml("Key").as_str(), created.xml("Bucket").as_str()),
        (201, "user/a b", BUCKET)
    );
    assert_eq!(created.xml("Location"), "/bucket/user/a%20b");
    let redirected =
        post(&door, SECRET, &[("key", "user/r"), ("success_action_redirect", "http://example.com/?x=1")], b"x").await;
    assert_eq!(redirected.status, 303);
    assert!(
        redirected
            .header("location")
            .unwrap()
            .starts_with("http://example.com/?x=1&bucket=bucket&key=user%2Fr&etag=%22")
    );
    let summed = post(&door, SECRET, &[("key", "user/s"), ("x-amz-checksum-crc32", &crc32(b"x"))], b"x").await;
    assert_eq!((summed.status, summed.header("x-amz-checksum-crc32")), (204, Some(crc32(b"x").as_str())));
}

#[tokio::test]
async fn forms_signed_in_the_older_way_are_taken() {
    let door = Door::open().await;
    let policy = base64(
        br#"{"expiration":"2099-01-01T00:00:00Z","conditions":[{"bucket":"bucket"},["starts-with","$key",""]]}"#,
    );
    let post = |secret: &str| {
        let signature = base64(&hmac_sha1(secret.as_bytes(), policy.as_bytes()));
        let fields = [("key", "k"), ("AWSAccessKeyId", "LABKEY"), ("policy", &policy), ("signature", &signature)];
        let mut body: String = fields
            .iter()
            .map(|(k, v)| format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{k}\"\r\n\r\n{v}\r\n"))
            .collect();
        body.push_str(&format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nx\r\n--{BOUNDARY}--\r\n"
        ));
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        door.client().post(&format!("/{BUCKET}")).sign(Sign::Not).header("content-type", &kind).body(body).send()
    };
    post("wrong").await.refused(403, "SignatureDoesNotMatch");
    assert!(door.keys().await.is_empty());
    assert_eq!(post(SECRET).await.status, 204);
    assert_eq!(door.client().get(&path("k")).send().await.ok().body, "x");
}

#[tokio::test]
async fn a_form_that_breaks_its_policy_stores_nothing() {
    let door = Door::open().await;
    post(&door, "wrong", &[("key", "user/a")], b"x").await.refused(403, "SignatureDoesNotMatch");
    post(&door, SECRET, &[("key", "other/a")], b"x").await.refused(403, "AccessDenied");
    post(&door, SECRET, &[("key", "user/a"), ("x-amz-meta-b", "c")], b"x").await.refused(403, "AccessDenied");
    post(&door, SECRET, &[("key", "user/a"), ("Content-Type", "image/png")], b"x").await.refused(403, "AccessDenied");
    post(&door, SECRET, &[], b"x").await.refused(400, "InvalidArgument");
    post(&door, SECRET, &[("key", "user/a")], b"").await.refused(400, "EntityTooSmall");
    post(&door, SECRET, &[("key", "user/a")], &noise((1 << 20) + 1, 1)).await.refused(400, "EntityTooLarge");
    post(&door, SECRET, &[("key", "user/a"), ("x-amz-checksum-crc32", &crc32(b"y"))], b"x")
        .await
        .refused(400, "BadDigest");
    let (kind, body) = form(SECRET, &[("key", "user/a")], b"x");
    let unsigned = String::from_utf8(body).unwrap().replace("x-amz-signature", "x-ignore-me");
    let reply = door
        .client()
        .post(&format!("/{BUCKET}"))
        .sign(Sign::Not)
        .header("content-type", &kind)
        .body(unsigned)
        .send()
        .await;
    reply.refused(403, "AccessDenied");
    assert!(door.keys().await.is_empty());
}
