//! Listings against a model.

use crate::client::*;
use std::collections::BTreeSet;

const KEYS: [&str; 15] =
    ["a", "a/1", "a/2", "a/b/1", "a/b/2", "a0", "b/", "b//x", "b/1", "c d", "c+d", "e\u{e4}", "x--1", "x--2", "z"];

async fn filled() -> Door {
    let door = Door::open().await;
    for key in KEYS {
        door.client().put(&path(key)).body(key).send().await.ok();
    }
    door
}

/// What S3 lists: (keys, common prefixes).
fn model(prefix: &str, delimiter: &str, after: &str) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut prefixes) = (BTreeSet::new(), BTreeSet::new());
    for key in KEYS.iter().filter(|key| key.starts_with(prefix)) {
        match (!delimiter.is_empty()).then(|| key[prefix.len()..].find(delimiter)).flatten() {
            Some(at) => {
                let rolled = &key[..prefix.len() + at + delimiter.len()];
                if rolled > after && !(after.starts_with(rolled)) {
                    prefixes.insert(rolled.to_owned());
                }
            }
            None if *key > after => {
                keys.insert((*key).to_owned());
            }
            None => {}
        }
    }
    (keys.into_iter().collect(), prefixes.into_iter().collect())
}

fn prefixes(reply: &Reply) -> Vec<String> {
    reply.all("CommonPrefixes").iter().map(|x| x.replace("<Prefix>", "").replace("</Prefix>", "")).collect()
}

#[tokio::test]
async fn pages_of_any_size_add_up_to_the_model() {
    let door = filled().await;
    let client = door.client();
    for (prefix, delimiter) in [
        ("", ""),
        ("", "/"),
        ("a", "/"),
        ("a/", "/"),
        ("a/b", "/"),
        ("b/", "/"),
        ("", "--"),
        ("x", "-"),
        ("nope", "/"),
        ("", "d"),
    ] {
        let (keys, rolled) = model(prefix, delimiter, "");
        for size in [1, 2, 3, 1000] {
            for v2 in [true, false] {
                let (mut seen_keys, mut seen_prefixes, mut next, mut pages) =
                    (Vec::new(), Vec::new(), String::new(), 0);
                loop {
                    let mut request =
                        client.get(&format!("/{BUCKET}")).query("prefix", prefix).query("delimiter", delimiter);
                    request = request.query("max-keys", &size.to_string());
                    if v2 {
                        request = request.query("list-type", "2");
                    }
                    if !next.is_empty() {
                        request = request.query(if v2 { "continuation-token" } else { "marker" }, &next);
                    }
                    let page = request.send().await.ok();
                    let (page_keys, page_prefixes) = (page.all("Key"), prefixes(&page));
                    let count = page_keys.len() + page_prefixes.len();
                    assert!(count <= size, "{count}");
                    if v2 {
                        assert_eq!(page.xml("KeyCount"), count.to_string());
                    }
                    next = match (v2, delimiter.is_empty()) {
                        (true, _) => page.xml("NextContinuationToken"),
                        (false, false) => page.xml("NextMarker"),
                        (false, true) => {
                            assert_eq!(page.xml("NextMarker"), "", "only with a delimiter");
                            page_keys.last().cloned().unwrap_or_default()
                        }
                    };
                    seen_keys.extend(page_keys);
                    seen_prefixes.extend(page_prefixes);
                    pages += 1;
                    assert!(pages < 100, "the listing does not end");
                    if page.xml("IsTruncated") == "false" {
                        break;
                    }
                }
                assert_eq!((&seen_keys, &seen_prefixes), (&keys, &rolled), "{prefix:?} {delimiter:?} {size} v2: {v2}");
            }
        }
    }
}

#[tokio::test]
async fn listings_say_what_was_asked_and_what_is_there() {
    let door = filled().await;
    let client = door.client();
    let list = || client.get(&format!("/{BUCKET}")).query("list-type", "2");
    let page = list().query("start-after", "c+d").query("fetch-owner", "true").send().await.ok();
    assert_eq!(page.all("Key"), model("", "", "c+d").0);
    assert_eq!(page.xml("StartAfter"), "c+d");
    assert_eq!((page.xml("ID").as_str(), page.xml("DisplayName").as_str()), ("west/lab", "lab"));
    assert!(list().send().await.ok().all("Owner").is_empty());
    assert!(!client.get(&format!("/{BUCKET}")).send().await.ok().all("Owner").is_empty(), "V1 always names the owner");
    let first = list().query("max-keys", "1").send().await.ok();
    assert_eq!((first.xml("Size").as_str(), first.xml("StorageClass").as_str()), ("1", "STANDARD"));
    assert_eq!(first.xml("ETag"), format!("\"{}\"", hex(&md5(b"a"))));
    assert!(first.xml("LastModified").ends_with(".000Z"), "{}", first.xml("LastModified"));
    assert_eq!((first.xml("MaxKeys").as_str(), first.xml("Name").as_str()), ("1", BUCKET));
    let url = list().query("encoding-type", "url").query("prefix", "c ").query("delimiter", "+").send().await.ok();
    assert_eq!(
        (url.all("Key"), url.xml("Prefix").as_str(), url.xml("Delimiter").as_str()),
        (vec!["c%20d".to_owned()], "c%20", "%2B")
    );
    assert_eq!(url.xml("EncodingType"), "url");
    let none = list().query("max-keys", "0").send().await.ok();
    assert_eq!((none.xml("KeyCount").as_str(), none.xml("IsTruncated").as_str()), ("0", "false"));
    assert_eq!(list().query("max-keys", "5000").send().await.ok().xml("MaxKeys"), "1000");
    list().query("max-keys", "-1").send().await.refused(400, "InvalidArgument");
    list().query("max-keys", "x").send().await.refused(400, "InvalidArgument");
    list().query("continuation-token", "!").send().await.refused(400, "InvalidArgument");
    list().query("encoding-type", "xml").send().await.refused(400, "InvalidArgument");
    client.get("/missing-bucket").query("list-type", "2").send().await.refused(404, "NoSuchBucket");
}

#[tokio::test]
async fn an_emptied_prefix_is_gone() {
    let door = filled().await;
    let client = door.client();
    for key in ["a/b/1", "a/b/2"] {
        client.delete(&path(key)).send().await.ok();
    }
    let page = client.get(&format!("/{BUCKET}")).query("prefix", "a/").query("delimiter", "/").send().await.ok();
    assert_eq!((page.all("Key"), prefixes(&page)), (vec!["a/1".to_owned(), "a/2".into()], vec![]));
    client.get(&path("a/b/")).send().await.refused(404, "NoSuchKey");
}

#[tokio::test]
async fn more_than_a_page_of_keys() {
    let door = Door::open().await;
    let bucket = door.segment.bucket(&tombolo_core::BucketPath::new("west", "lab", BUCKET).unwrap()).await.unwrap();
    let puts = (0..2500).map(|i| {
        let bucket = bucket.clone();
        async move { bucket.put(format!("k{i:05}"), bytes::Bytes::new(), Default::default()).await.unwrap() }
    });
    futures::future::join_all(puts).await;
    let (mut keys, mut token) = (Vec::new(), String::new());
    loop {
        let mut request = door.client().get(&format!("/{BUCKET}")).query("list-type", "2");
        if !token.is_empty() {
            request = request.query("continuation-token", &token);
        }
        let page = request.send().await.ok();
        assert!(page.all("Key").len() <= 1000);
        keys.extend(page.all("Key"));
        token = page.xml("NextContinuationToken");
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(keys, (0..2500).map(|i| format!("k{i:05}")).collect::<Vec<_>>());
}
