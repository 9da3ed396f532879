//! The table of docs/concurrent-changes.md, row by row.

use crate::site::{Site, Sites};
use std::collections::BTreeSet;
use tombolo_core::*;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/concurrent-changes.md");
/// All changes that the table pairs, each with each.
const CHANGES: [&str; 13] = [
    "write d/x",
    "delete d/x",
    "chmod d/x",
    "link d/x d/l",
    "rename d/x d/y",
    "rename d/x z",
    "rename t d/x",
    "write d/n",
    "mkdir d/n/",
    "write d/n/k",
    "rename d/ e/",
    "rename d/ d2/d/",
    "remove d/",
];

/// Makes a change; what it writes is `side`.
async fn change(bucket: &Bucket, side: &'static str, what: &str) -> Result<()> {
    let words: Vec<&str> = what.split(' ').collect();
    match words[..] {
        ["write", key] => drop(bucket.put(key, side, PutOptions::default()).await?),
        ["delete", key] => {
            bucket.delete(key, DeleteOptions::default()).await?;
        }
        ["chmod", key] => {
            let mode = if side == "here" { 0o600 } else { 0o640 };
            bucket.set_attributes(key, Attributes { mode: Some(mode), ..Attributes::default() }, None).await?;
        }
        ["link", from, to] => bucket.link(from, to).await?,
        ["rename", from, to] => {
            if let Some((parent, _)) = to.trim_end_matches('/').rsplit_once('/').filter(|(parent, _)| *parent == "d2") {
                bucket.mkdir(&format!("{parent}/"), Attributes::default()).await?;
            }
            bucket.rename(from, to).await?;
        }
        ["mkdir", key] => bucket.mkdir(key, Attributes::default()).await?,
        ["remove", directory] => {
            let page = bucket
                .list(ListOptions {
                    prefix: bytes::Bytes::copy_from_slice(directory.as_bytes()),
                    limit: 100,
                    ..ListOptions::default()
                })
                .await?;
            let mut keys: Vec<_> = page
                .items
                .into_iter()
                .filter_map(|item| match item {
                    ListItem::Object(object) => Some(object.key),
                    ListItem::Prefix(_) => None,
                })
                .collect();
            keys.reverse();
            for key in keys {
                bucket.delete(&key, DeleteOptions::default()).await?;
            }
        }
        _ => return Err(Error::invalid(format!("'{what}' is no change"))),
    }
    Ok(())
}

/// What shows, in the words of the table.
async fn shows(site: &Site, sides: &[(String, &str); 2]) -> String {
    let mut lines = Vec::new();
    for (key, content) in site.shows().await {
        // The number that a conflict's name ends with differs from run to run.
        let mut name = key.clone();
        for (segment, side) in sides {
            while let Some(at) = name.find(&format!("(conflict {segment} ")) {
                let end = at + name[at..].find(')').unwrap();
                name.replace_range(at..=end, &format!("(conflict {side})"));
            }
        }
        lines.push(if key.ends_with('/') { format!("`{name}`") } else { format!("`{name}` {content}") });
    }
    if lines.is_empty() { "nothing".into() } else { lines.join(", ") }
}

async fn outcome(all: &Sites, nth: usize, here: &str, there: &str) -> String {
    let sites = all.bucket(&format!("row-{nth}"), 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    a.bucket.mkdir("d/", Attributes::default()).await.unwrap();
    a.bucket.put("d/x", "old", PutOptions::default()).await.unwrap();
    a.bucket.put("t", "other", PutOptions::default()).await.unwrap();
    b.pull(a).await;
    change(&a.bucket, "here", here).await.unwrap();
    b.writes_after(a).await;
    change(&b.bucket, "there", there).await.unwrap();
    a.pull(b).await;
    b.pull(a).await;
    let short = |site: &Site| site.bucket.segment().id().to_string()[..8].to_owned();
    let sides = [(short(a), "here"), (short(b), "there")];
    let shown = shows(a, &sides).await;
    assert_eq!(shown, shows(b, &sides).await, "{here} | {there}");
    shown
}

/// Every pair of concurrent changes ends as the table says, on both segments.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_changes_end_as_the_table_says() {
    let all = Sites::new(2).await;
    let page = std::fs::read_to_string(PAGE).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| here"));
    let mut pairs = BTreeSet::new();
    let mut wrong = Vec::new();
    for (nth, row) in rows.enumerate() {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        let (here, there, wanted) = (cells[0], cells[1], cells[2]);
        pairs.insert((here.to_owned(), there.to_owned()));
        let shown = outcome(&all, nth, here, there).await;
        if shown != wanted {
            wrong.push(format!("| {here} | {there} | {shown} |"));
        }
    }
    for (nth, here) in CHANGES.iter().enumerate() {
        for there in &CHANGES[nth..] {
            if !pairs.contains(&((*here).to_owned(), (*there).to_owned())) {
                wrong.push(format!("| {here} | {there} | is not in the table |"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Directories that were moved into each other show as a tree; what does not show of that still led around, and a listing of versions went on for ever.
#[tokio::test(flavor = "multi_thread")]
async fn versions_are_listed_to_the_end_where_directories_were_moved_into_each_other() {
    let all = Sites::new(2).await;
    let sites = all.bucket("around", 2, &BucketPolicy::default()).await;
    let (a, b) = (&sites[0], &sites[1]);
    for key in ["p/x", "q/y"] {
        a.bucket.put(key, key.to_owned(), PutOptions::default()).await.unwrap();
    }
    b.pull(a).await;
    a.bucket.rename("p", "q/p").await.unwrap();
    b.bucket.rename("q", "p/q").await.unwrap();
    a.pull(b).await;
    b.pull(a).await;
    for site in [a, b] {
        let options = ListVersionsOptions { limit: 10_000, ..ListVersionsOptions::default() };
        let listed = site.bucket.list_versions(options);
        let listed = tokio::time::timeout(std::time::Duration::from_secs(60), listed).await.unwrap().unwrap();
        assert_eq!(listed.items.len(), site.shows().await.len());
    }
}
