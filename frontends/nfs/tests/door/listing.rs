//! Listings: as much as there is room for, and cookies that are believed where they belong.

use crate::served::{BUCKET, Served, patient};
use std::collections::BTreeSet;
use tombolo_core::NodeId;

const NOTDIR: u32 = 20;
const BAD_COOKIE: u32 = 10_003;
const TOOSMALL: u32 = 10_005;
const MIB: u32 = 1 << 20;

#[tokio::test]
async fn a_reply_is_as_full_as_the_client_lets_it_be() {
    let served = Served::new(&[], patient()).await;
    let directory = served.directory(&NodeId::ROOT, "many").await;
    let mut expected = BTreeSet::from([".".to_owned(), "..".to_owned()]);
    for number in 0..3000 {
        // Of all lengths.
        let name = format!("{number:04}{}", "x".repeat(number % 61));
        served.file(&directory, &name).await;
        expected.insert(name);
    }
    let mut client = served.client().await;
    let root = client.mount(BUCKET).await.unwrap();
    let many = client.lookup(&root, "many").await.unwrap();
    let whole = client.list(&many, (0, 0), (MIB, MIB)).await.unwrap();
    assert!(whole.is_end && whole.bytes <= MIB as usize);
    assert_eq!(whole.entries.iter().map(|entry| entry.name.clone()).collect::<BTreeSet<_>>(), expected);
    assert_eq!(whole.entries.len(), expected.len(), "each once");
    assert_eq!(whole.entries.iter().filter(|entry| entry.handle.is_some()).count(), 3000);

    for (names_max, bytes_max) in [(MIB, 32 << 10), (2048, MIB), (MIB, 700), (1, 4096), (0, MIB)] {
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            let page = client.list(&many, (cookie, 0), (names_max, bytes_max)).await.unwrap();
            assert!(page.bytes <= bytes_max as usize);
            let bytes = page.entries.iter().map(|entry| entry.name.len() + 27).sum::<usize>();
            assert!(bytes <= names_max as usize || page.entries.len() == 1, "{bytes} bytes of names");
            let is_full = page.bytes + 300 > bytes_max as usize || bytes + 100 > names_max as usize;
            assert!(is_full || page.is_end, "there is room: {} of {bytes_max}, {bytes} of {names_max}", page.bytes);
            cookie = page.entries.last().map_or(cookie, |entry| entry.cookie);
            names.extend(page.entries.into_iter().map(|entry| entry.name));
            if page.is_end || names.len() > 3100 {
                break;
            }
        }
        assert_eq!(names.len(), expected.len(), "each once");
        assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), expected);
    }
    assert_eq!(client.list(&many, (0, 0), (MIB, 100)).await.unwrap_err(), TOOSMALL);
}

/// A cookie was made of the name alone: it was good in every directory that has that name, and anybody could find two names that share one, behind which
/// no listing ends.
#[tokio::test]
async fn cookies_are_good_where_they_were_given() {
    let served = Served::new(&[], patient()).await;
    let (one, two) = (served.directory(&NodeId::ROOT, "one").await, served.directory(&NodeId::ROOT, "two").await);
    for name in ["a", "b", "c"] {
        served.file(&one, name).await;
        served.file(&two, name).await;
    }
    served.file(&NodeId::ROOT, "file").await;
    let mut client = served.client().await;
    let root = client.mount(BUCKET).await.unwrap();
    let one = client.lookup(&root, "one").await.unwrap();
    let two = client.lookup(&root, "two").await.unwrap();
    let all = client.list(&one, (0, 0), (8192, 8192)).await.unwrap();
    let cookies: Vec<u64> = all.entries.iter().map(|entry| entry.cookie).collect();
    let names = |listing: &crate::client::Listing| {
        listing.entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&all), ". .. a b c");
    for (cookie, rest) in cookies.iter().zip([".. a b c", "a b c", "b c", "c", ""]) {
        let listing = client.list(&one, (*cookie, 0), (8192, 8192)).await.unwrap();
        assert_eq!((names(&listing).as_str(), listing.is_end), (rest, true));
        // A verifier that nobody gave.
        assert_eq!(client.list(&one, (*cookie, 7), (8192, 8192)).await.unwrap_err(), BAD_COOKIE);
    }
    // One that leads nowhere, or nowhere any more, leads to the beginning: nothing is left out.
    for cookie in &cookies[2..] {
        let listing = client.list(&two, (*cookie, 0), (8192, 8192)).await.unwrap();
        assert_eq!((names(&listing).as_str(), listing.is_end), ("a b c", true));
        assert_eq!(names(&client.list(&root, (*cookie, 0), (8192, 8192)).await.unwrap()), "file one two");
    }
    for cookie in [3, 4, 1 << 61, 1 << 62, 1 << 63, u64::MAX, cookies[2] ^ 1, cookies[2] | 1 << 63] {
        let listing = client.list(&one, (cookie, 0), (8192, 8192)).await.unwrap();
        assert_eq!(names(&listing), "a b c", "{cookie}");
    }
    let file = client.lookup(&root, "file").await.unwrap();
    for cookie in [0, 1, 2, cookies[2]] {
        assert_eq!(client.list(&file, (cookie, 0), (8192, 8192)).await.unwrap_err(), NOTDIR);
    }
    // What is gone is remembered as a place.
    let parent = served.files.lookup(&tombolo_core::engine::fs::Caller::root(), &NodeId::ROOT, b"one").await.unwrap();
    served.files.unlink(&tombolo_core::engine::fs::Caller::root(), &parent.node, b"b").await.unwrap();
    let listing = client.list(&one, (cookies[3], 0), (8192, 8192)).await.unwrap();
    assert_eq!(names(&listing), "c");
}
