//! Versions and delete markers.

use crate::client::*;

async fn versioned(status: &str) -> Door {
    let door = Door::open().await;
    set(&door, status).await;
    door
}

async fn set(door: &Door, status: &str) {
    let xml = format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
    door.client().put(&format!("/{BUCKET}")).query("versioning", "").body(xml).send().await.ok();
}

async fn put(door: &Door, key: &str, body: &'static str) -> String {
    let reply = door.client().put(&path(key)).body(body).send().await.ok();
    reply.header("x-amz-version-id").unwrap_or("null").to_owned()
}

fn versions(door: &Door) -> Request {
    door.client().get(&format!("/{BUCKET}")).query("versions", "")
}

#[tokio::test]
async fn the_state_of_a_bucket_is_kept() {
    let door = Door::open().await;
    let state =
        || async { door.client().get(&format!("/{BUCKET}")).query("versioning", "").send().await.ok().xml("Status") };
    assert_eq!(state().await, "");
    set(&door, "Enabled").await;
    assert_eq!(state().await, "Enabled");
    set(&door, "Suspended").await;
    assert_eq!(state().await, "Suspended");
    let bad = "<VersioningConfiguration><Status>Maybe</Status></VersioningConfiguration>";
    let reply = door.client().put(&format!("/{BUCKET}")).query("versioning", "").body(bad).send().await;
    reply.refused(400, "IllegalVersioningConfigurationException");
}

#[tokio::test]
async fn old_versions_stay_readable_until_they_are_deleted() {
    let door = versioned("Enabled").await;
    let client = door.client();
    let (one, two) = (put(&door, "k", "one").await, put(&door, "k", "two").await);
    assert_ne!(one, two);
    let of = |id: &str| client.get(&path("k")).query("versionId", id).send();
    let old = of(&one).await.ok();
    assert_eq!((old.text().as_str(), old.header("x-amz-version-id")), ("one", Some(one.as_str())));
    let now = client.get(&path("k")).send().await.ok();
    assert_eq!((now.text().as_str(), now.header("x-amz-version-id")), ("two", Some(two.as_str())));

    let deleted = client.delete(&path("k")).send().await.ok();
    let marker = deleted.header("x-amz-version-id").unwrap().to_owned();
    assert_eq!(deleted.header("x-amz-delete-marker"), Some("true"));
    let gone = client.get(&path("k")).send().await;
    gone.refused(404, "NoSuchKey");
    assert_eq!(
        (gone.header("x-amz-delete-marker"), gone.header("x-amz-version-id")),
        (Some("true"), Some(marker.as_str()))
    );
    let head = client.head(&path("k")).send().await;
    assert_eq!((head.status, head.header("x-amz-delete-marker")), (404, Some("true")));
    let of_marker = of(&marker).await;
    of_marker.refused(405, "MethodNotAllowed");
    assert_eq!(of_marker.header("x-amz-delete-marker"), Some("true"));
    assert_eq!(of_marker.header("allow"), Some("DELETE"));
    assert!(of_marker.header("last-modified").is_some());
    assert_eq!(of(&two).await.ok().text(), "two");

    let removed = client.delete(&path("k")).query("versionId", &marker).send().await.ok();
    assert_eq!(
        (removed.header("x-amz-delete-marker"), removed.header("x-amz-version-id")),
        (Some("true"), Some(marker.as_str()))
    );
    assert_eq!(client.get(&path("k")).send().await.ok().text(), "two", "without its marker the object is back");
    let removed = client.delete(&path("k")).query("versionId", &two).send().await.ok();
    assert_eq!((removed.header("x-amz-delete-marker"), removed.header("x-amz-version-id")), (None, Some(two.as_str())));
    assert_eq!(client.get(&path("k")).send().await.ok().text(), "one");
    of(&two).await.refused(404, "NoSuchVersion");
    of("nonsense").await.refused(400, "InvalidArgument");
    client.delete(&format!("/{BUCKET}")).send().await.refused(409, "BucketNotEmpty");
}

#[tokio::test]
async fn suspended_buckets_write_the_null_version() {
    let door = Door::open().await;
    let client = door.client();
    put(&door, "k", "before").await;
    set(&door, "Enabled").await;
    let one = put(&door, "k", "one").await;
    assert_eq!(client.get(&path("k")).query("versionId", "null").send().await.ok().text(), "before");
    set(&door, "Suspended").await;
    client.put(&path("k")).body("after").send().await.ok();
    assert_eq!(client.get(&path("k")).query("versionId", "null").send().await.ok().text(), "after");
    assert_eq!(client.get(&path("k")).query("versionId", &one).send().await.ok().text(), "one");
    let ids = versions(&door).send().await.ok().all("VersionId");
    assert_eq!(ids, ["null".to_owned(), one.clone()]);
    client.delete(&path("k")).send().await.ok();
    client.get(&path("k")).send().await.refused(404, "NoSuchKey");
    let page = versions(&door).send().await.ok();
    assert_eq!((page.all("DeleteMarker").len(), page.all("Version").len()), (1, 1));
}

#[tokio::test]
async fn versions_are_listed_newest_first_and_paged() {
    let door = versioned("Enabled").await;
    let client = door.client();
    let mut expected = Vec::new();
    for key in ["a", "b/1", "b/2", "c"] {
        let mut ids = vec![put(&door, key, "one").await, put(&door, key, "two").await];
        if key == "c" {
            ids.push(client.delete(&path(key)).send().await.ok().header("x-amz-version-id").unwrap().to_owned());
        }
        ids.reverse();
        expected.extend(ids.into_iter().map(|id| (key.to_owned(), id)));
    }
    let all = versions(&door).send().await.ok();
    assert_eq!((all.all("Version").len(), all.all("DeleteMarker").len()), (8, 1));
    let latest = all.all("IsLatest").iter().filter(|x| *x == "true").count();
    assert_eq!(latest, 4);
    for size in [1, 2, 5] {
        let (mut seen, mut markers) = (Vec::new(), (String::new(), String::new()));
        loop {
            let page = versions(&door).query("max-keys", &size.to_string()).query("key-marker", &markers.0);
            let page = page.query("version-id-marker", &markers.1).send().await.ok();
            // Versions and markers are two lists in a page of s3s's; the order of lines matters between pages.
            let mut lines: Vec<(String, String)> = page.all("Key").into_iter().zip(page.all("VersionId")).collect();
            lines.sort_by_key(|line| expected.iter().position(|e| e == line));
            seen.extend(lines);
            markers = (page.xml("NextKeyMarker"), page.xml("NextVersionIdMarker"));
            if page.xml("IsTruncated") == "false" {
                break;
            }
            assert!(seen.len() < 20, "the listing does not end");
        }
        assert_eq!(seen, expected, "pages of {size}");
    }
    let rolled = versions(&door).query("delimiter", "/").send().await.ok();
    assert_eq!((rolled.all("Version").len(), rolled.text().matches("<CommonPrefixes>").count()), (4, 1));
    versions(&door).query("version-id-marker", "null").send().await.refused(400, "InvalidArgument");
}

#[tokio::test]
async fn versions_can_be_copied_tagged_and_deleted_many_at_once() {
    let door = versioned("Enabled").await;
    let client = door.client();
    let (one, two) = (put(&door, "k", "one").await, put(&door, "k", "two").await);
    let source = format!("bucket/k?versionId={one}");
    let copy = client.put(&path("k")).header("x-amz-copy-source", &source).send().await.ok();
    assert_eq!(copy.header("x-amz-copy-source-version-id"), Some(one.as_str()));
    assert_eq!(client.get(&path("k")).send().await.ok().text(), "one", "an old version is restored by copying it");
    let tagging = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>";
    client.put(&path("k")).query("tagging", "").query("versionId", &two).body(tagging).send().await.ok();
    let tags = |id: &str| client.get(&path("k")).query("tagging", "").query("versionId", id).send();
    assert_eq!(tags(&two).await.ok().all("Key"), ["a"]);
    assert!(tags(&one).await.ok().all("Key").is_empty());

    let xml = format!(
        "<Delete><Object><Key>k</Key><VersionId>{one}</VersionId></Object><Object><Key>k</Key></Object></Delete>"
    );
    let reply = client.post(&format!("/{BUCKET}")).query("delete", "").body(xml).send().await.ok();
    assert_eq!((reply.all("VersionId"), reply.all("DeleteMarker")), (vec![one.clone()], vec!["true".to_owned()]));
    assert_eq!(reply.all("DeleteMarkerVersionId").len(), 1);
    client.get(&path("k")).query("versionId", &one).send().await.refused(404, "NoSuchVersion");
    client.get(&path("k")).send().await.refused(404, "NoSuchKey");
    let marker = reply.xml("DeleteMarkerVersionId");
    let source = format!("bucket/k?versionId={marker}");
    client.put(&path("c")).header("x-amz-copy-source", &source).send().await.refused(400, "InvalidRequest");
}

/// Who deletes a page of versions and asks for the next one names a version that is gone: the rest of its key was left out, and the bucket could not be deleted.
#[tokio::test]
async fn a_listing_goes_on_behind_a_version_that_was_deleted() {
    let door = Door::open().await;
    let client = door.client();
    put(&door, "k", "null").await;
    set(&door, "Enabled").await;
    for body in ["1", "2", "3", "4"] {
        put(&door, "k", body).await;
    }
    put(&door, "l", "5").await;
    let mut marker: Option<(String, String)> = None;
    let mut deleted = 0;
    loop {
        let mut request = versions(&door).query("max-keys", "2");
        if let Some((key, version)) = &marker {
            request = request.query("key-marker", key).query("version-id-marker", version);
        }
        let page = request.send().await.ok();
        for (key, version) in page.all("Key").iter().zip(page.all("VersionId")) {
            assert_eq!(client.delete(&path(key)).query("versionId", &version).send().await.status, 204);
            deleted += 1;
        }
        if page.xml("IsTruncated") != "true" {
            break;
        }
        marker = Some((page.xml("NextKeyMarker"), page.xml("NextVersionIdMarker")));
    }
    assert_eq!(deleted, 6);
    assert_eq!(client.delete(&format!("/{BUCKET}")).send().await.status, 204);
}
