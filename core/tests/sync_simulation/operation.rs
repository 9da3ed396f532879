//! Operations of every kind on one bucket of one site, through the calls that doors use.

use crate::data::label_of;
use crate::random::Random;
use crate::site::Site;
use std::collections::{BTreeMap, BTreeSet};
use tombolo_core::engine::fs::{Caller, ROOT, RenameMode, SetAttributes};
use tombolo_core::*;

const DIRECTORIES: [&str; 6] = ["p", "q", "p/r", "q/s", "p/r/t", "q/p"];
const PLACES: [&str; 6] = ["", "", "p/", "q/", "p/r/", "q/p/"];
const NAMES: [&str; 3] = ["x", "y.txt", "z"];

/// What an operation was, and which keys it was about: contents may vanish there and nowhere else.
pub struct Done {
    pub what: String,
    pub about: BTreeSet<String>,
    /// The key whose content there is once more now.
    pub copied: Option<String>,
}

/// Whether a key belongs to the diaries, which only grow.
pub fn is_diary(key: &str) -> bool {
    key.starts_with('d')
}

async fn node(bucket: &Bucket, path: &str) -> Result<NodeId> {
    let files = bucket.file_system();
    let mut node = ROOT;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        node = files.lookup(&Caller::root(), &node, name.as_bytes()).await?.node;
    }
    Ok(node)
}

/// The directory of a path and the name in it.
async fn split<'a>(bucket: &Bucket, path: &'a str) -> Result<(NodeId, &'a [u8])> {
    let path = path.trim_end_matches('/');
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    Ok((node(bucket, directory).await?, name.as_bytes()))
}

async fn posix_rename(bucket: &Bucket, from: &str, to: &str, mode: RenameMode) -> Result<()> {
    let (from, to) = (split(bucket, from).await?, split(bucket, to).await?);
    let files = bucket.file_system().durable();
    files.rename(&Caller::root(), (&from.0, from.1), (&to.0, to.1), mode).await?;
    Ok(())
}

async fn write_file(bucket: &Bucket, key: &str, content: &str) -> Result<()> {
    let file = bucket.open_file(key, FileOptions { truncate: true, ..FileOptions::create() }).await?;
    file.write_at(0, content.to_owned().into()).await?;
    file.fsync().await?;
    file.close().await
}

/// Does one thing. `shows`: what the site shows. Refusals are no failures: the place may be taken or empty.
pub async fn operate(
    site: &Site,
    at: usize,
    random: &mut Random,
    shows: &BTreeMap<String, String>,
    content: &str,
) -> Done {
    let bucket = site.bucket(at);
    let label = label_of(content);
    let files = bucket.file_system().durable();
    let root = Caller::root();
    let there: Vec<&String> = shows.keys().filter(|key| !is_diary(key)).collect();
    let fresh =
        |random: &mut Random| format!("{}{}", random.pick(&PLACES).unwrap_or(&""), random.pick(&NAMES).unwrap_or(&"x"));
    let mut key = fresh(random);
    if random.percent(40)
        && let Some(existing) = random.pick(&there)
    {
        // What is there already, conflict copies too.
        key = (*existing).clone();
    }
    let directory = |random: &mut Random| (*random.pick(&DIRECTORIES).unwrap_or(&"p")).to_owned();
    let mut about = BTreeSet::from([key.clone()]);
    let (what, outcome) = match random.below(24) {
        0..=3 if !key.ends_with('/') => {
            let outcome = bucket.put(&key, content.to_owned(), PutOptions::default()).await;
            (format!("put {key} = {label}"), outcome.map(drop))
        }
        4..=6 if !key.ends_with('/') => (format!("write {key} = {label}"), write_file(bucket, &key, content).await),
        7 | 8 => (format!("delete {key}"), bucket.delete(&key, DeleteOptions::default()).await.map(drop)),
        9 => {
            let outcome = async {
                let (parent, name) = split(bucket, &key).await?;
                files.unlink(&root, &parent, name).await.map(drop)
            };
            (format!("unlink {key}"), outcome.await)
        }
        10 => {
            let path = directory(random);
            (format!("mkdir {path}"), bucket.mkdir(&path, Attributes::default()).await)
        }
        11 => {
            let path = directory(random);
            let outcome = async {
                let (parent, name) = split(bucket, &path).await?;
                files.make_directory(&root, &parent, name, SetAttributes::default()).await.map(drop)
            };
            (format!("mkdir of POSIX {path}"), outcome.await)
        }
        12 => {
            let path = directory(random);
            (format!("rmdir {path}"), bucket.rmdir(&path).await)
        }
        13 => {
            let path = directory(random);
            let outcome = async {
                let (parent, name) = split(bucket, &path).await?;
                files.remove_directory(&root, &parent, name).await.map(drop)
            };
            (format!("rmdir of POSIX {path}"), outcome.await)
        }
        14 => {
            let to = fresh(random);
            about.insert(to.clone());
            (format!("rename {key} to {to}"), bucket.rename(&key, &to).await)
        }
        15 | 16 => {
            let to = if random.percent(30) { (*random.pick(&there).unwrap_or(&&key)).clone() } else { fresh(random) };
            let mode = if random.percent(25) { RenameMode::Exchange } else { RenameMode::Replace };
            about.insert(to.clone());
            (format!("rename of POSIX {key} to {to} {mode:?}"), posix_rename(bucket, &key, &to, mode).await)
        }
        17 => {
            let (from, to) = (directory(random), directory(random));
            (format!("rename {from}/ to {to}/"), bucket.rename(&from, &to).await)
        }
        18 => {
            let (from, to) = (directory(random), directory(random));
            let mode = if random.percent(25) { RenameMode::Exchange } else { RenameMode::Replace };
            (format!("rename of POSIX {from}/ to {to}/ {mode:?}"), posix_rename(bucket, &from, &to, mode).await)
        }
        19 => {
            let to = fresh(random);
            (format!("link {key} to {to}"), bucket.link(&key, &to).await)
        }
        20 => {
            let to = fresh(random);
            about.insert(to.clone());
            let outcome = async {
                let object = bucket.get(&key, GetOptions::default()).await?;
                bucket.copy(&object, &to, CopyOptions::default()).await.map(drop)
            };
            (format!("copy {key} to {to}"), outcome.await)
        }
        21 => {
            let outcome = async {
                let (parent, name) = split(bucket, &key).await?;
                files.make_symlink(&root, &parent, name, label.as_bytes(), SetAttributes::default()).await.map(drop)
            };
            (format!("symlink {key} = {label}"), outcome.await)
        }
        22 => {
            let mode = 0o600 | u32::try_from(random.below(64)).unwrap_or_default();
            let set = SetAttributes { mode: Some(mode), ..SetAttributes::default() };
            let outcome = async {
                let node = node(bucket, &key).await?;
                files.set_attributes(&root, &node, set, None).await.map(drop)
            };
            (format!("chmod {mode:o} {key}"), outcome.await)
        }
        _ => {
            let tags = Tags::from_iter([("tag".to_owned(), label.to_owned())]);
            (format!("tag {key}"), bucket.set_tags(&key, None, tags).await.map(drop))
        }
    };
    let copied = (what.starts_with("copy") && outcome.is_ok()).then_some(key);
    let refused = outcome.err().map(|error| format!(" refused: {error}")).unwrap_or_default();
    Done { what: what + &refused, about, copied }
}
