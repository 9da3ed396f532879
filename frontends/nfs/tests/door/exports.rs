//! What is exported, and nothing else; each caller's own replies.

use crate::client::{Args, MOUNT, NFS, OK, named};
use crate::served::{BUCKET, Served, patient};
use tombolo_core::NodeId;
use tombolo_core::engine::fs::Caller;

const NOENT: u32 = 2;
const ACCES: u32 = 13;
const XDEV: u32 = 18;
const STALE: u32 = 70;
const NOTDIR: u32 = 20;

const INNER: &str = "/C/t/b/inner:insecure,no_root_squash";
const WHOLE: &str = "/C/t/b:insecure,no_root_squash";

/// A client of a directory's export got at the rest of the bucket by mounting a path with `..` in it.
#[tokio::test]
async fn a_mount_does_not_leave_its_export() {
    let served = Served::new(&[INNER], patient()).await;
    let inner = served.directory(&NodeId::ROOT, "inner").await;
    let below = served.directory(&inner, "below").await;
    served.directory(&NodeId::ROOT, "other").await;
    served.file(&inner, "file").await;
    let set = tombolo_core::engine::fs::SetAttributes::default();
    served.files.make_symlink(&Caller::root(), &inner, b"link", b"../other", set).await.unwrap();
    let mut client = served.client().await;
    let root = client.mount("/C/t/b/inner").await.unwrap();
    let sub = client.mount("//C/t/b/inner/below/").await.unwrap();
    assert_eq!(client.lookup(&root, "below").await, Ok(sub.clone()));
    for path in [
        "/C/t/b/inner/../other",
        "/C/t/b/inner/..",
        "/C/t/b/inner/below/../../other",
        "/C/t/b/inner/below/..",
        "/C/t/b/inner/./below",
        "/C/t/b/other/../inner",
        "/C/t/../t/b/inner",
    ] {
        assert_eq!(client.mount(path).await, Err(ACCES), "{path}");
    }
    for path in ["/C/t/b", "/C/t/b/other", "/C/t/b/inn", "/C/t/b/inner/nothing", "/"] {
        assert_eq!(client.mount(path).await, Err(NOENT), "{path}");
    }
    for path in ["/C/t/b/inner/link", "/C/t/b/inner/file"] {
        assert_eq!(client.mount(path).await, Err(NOTDIR), "{path}");
    }
    // Nor by LOOKUP.
    assert_eq!(client.lookup(&sub, "..").await, Ok(root.clone()));
    assert_eq!(client.lookup(&root, "..").await, Ok(root.clone()), "what is above an export is its root");
    assert_eq!(client.lookup(&root, ".").await, Ok(root.clone()));
    assert_eq!(client.lookup(&root, "../other").await, Err(NOENT));
    // Nor does a listing show the number of what is above.
    let listing = client.list(&root, (0, 0), (8192, 8192)).await.unwrap();
    assert_eq!(listing.entries.iter().filter(|entry| entry.handle.is_some()).count(), 3);
    let _ = below;
}

/// A handle outlives the move of what it names; so a directory that was moved out of an export led its clients out.
#[tokio::test]
async fn what_has_left_an_export_is_out_of_reach() {
    let served = Served::new(&[INNER], patient()).await;
    let inner = served.directory(&NodeId::ROOT, "inner").await;
    let other = served.directory(&NodeId::ROOT, "other").await;
    let moving = served.directory(&inner, "moving").await;
    let file = served.file(&moving, "file").await;
    let mut client = served.client().await;
    let root = client.mount("/C/t/b/inner").await.unwrap();
    let directory = client.lookup(&root, "moving").await.unwrap();
    let handle = client.lookup(&directory, "file").await.unwrap();
    assert_eq!(client.status(1, &Args::new().opaque(&handle)).await, OK);

    served.rename((&inner, "moving"), (&other, "moved")).await;
    for name in ["..", ".", "file"] {
        assert_eq!(client.lookup(&directory, name).await, Err(STALE), "{name}");
    }
    assert_eq!(client.list(&directory, (0, 0), (8192, 8192)).await.unwrap_err(), STALE);
    assert_eq!(client.status(1, &Args::new().opaque(&handle)).await, STALE);
    assert_eq!(client.read(&handle, 0, 10).await, Err(STALE));
    assert_eq!(client.write(&handle, 0, b"x").await, Err(STALE));
    assert_eq!(client.create(&directory, "new").await, Err(STALE));
    let link = Args::new().opaque(&handle).opaque(&root).opaque(b"link");
    assert_eq!(client.status(15, &link).await, STALE);
    let rename = |from: &[u8], to: &[u8]| Args::new().opaque(from).opaque(b"file").opaque(to).opaque(b"file");
    assert_eq!(client.status(14, &rename(&directory, &root)).await, STALE);
    assert_eq!(client.status(14, &rename(&root, &directory)).await, STALE);
    assert_eq!(client.status(12, &named(&directory, "file")).await, STALE);

    // A name inside is enough, and it is back with its directory.
    served.files.link(&Caller::root(), &file, &inner, b"name").await.unwrap();
    assert_eq!(client.status(1, &Args::new().opaque(&handle)).await, OK);
    assert_eq!(client.lookup(&directory, "file").await, Err(STALE));
    served.rename((&other, "moved"), (&inner, "back")).await;
    assert_eq!(client.lookup(&directory, "..").await, Ok(root));
}

#[tokio::test]
async fn a_handle_is_good_in_its_own_export_alone() {
    let served = Served::new(&[INNER, WHOLE, "/C/t/b/closed:client=203.0.113.0/24,insecure"], patient()).await;
    let inner = served.directory(&NodeId::ROOT, "inner").await;
    served.directory(&NodeId::ROOT, "closed").await;
    served.file(&NodeId::ROOT, "outside").await;
    served.file(&inner, "inside").await;
    let mut client = served.client().await;
    let (whole, part) = (client.mount(BUCKET).await.unwrap(), client.mount("/C/t/b/inner").await.unwrap());
    let through = client.lookup(&whole, "inner").await.unwrap();
    assert_ne!(through, part, "the same directory, by another way");
    assert_eq!(client.lookup(&through, "..").await, Ok(whole.clone()));
    let outside = client.lookup(&whole, "outside").await.unwrap();
    let link = Args::new().opaque(&outside).opaque(&part).opaque(b"link");
    assert_eq!(client.status(15, &link).await, XDEV);
    for (from, name, to) in [(&whole, "outside", &part), (&part, "inside", &whole)] {
        let rename = named(from, name).opaque(to).opaque(b"renamed");
        assert_eq!(client.status(14, &rename).await, XDEV);
    }
    assert_eq!(client.mount("/C/t/b/closed").await, Err(ACCES));
    // Not even with a number of the other export in it: the whole of it is signed.
    let forged = [&part[..9], &outside[9..]].concat();
    assert_eq!(client.status(1, &Args::new().opaque(&forged)).await, 10_001);
}

#[tokio::test]
async fn the_list_of_exports_says_who_may_mount() {
    let exports = [WHOLE, "/C/t/b/inner:insecure,client=127.0.0.0/8,client=10.0.0.0/8"];
    let served = Served::new(&exports, patient()).await;
    let mut client = served.client().await;
    let mut results = client.call_as(1, MOUNT, 5, &Args::new()).await;
    let mut listed = Vec::new();
    while results.u32() == 1 {
        let path = String::from_utf8(results.opaque()).unwrap();
        let mut groups = Vec::new();
        while results.u32() == 1 {
            groups.push(String::from_utf8(results.opaque()).unwrap());
        }
        listed.push((path, groups.join(" ")));
    }
    let expected = [("/C/t/b", "127.0.0.0/8 ::1/128"), ("/C/t/b/inner", "127.0.0.0/8 10.0.0.0/8")];
    assert_eq!(listed, expected.map(|(path, groups)| (path.to_owned(), groups.to_owned())));
}

/// Replies are kept for calls that are sent twice. Another user's call from the same host, with the same number and arguments, got the first one's.
#[tokio::test]
async fn a_reply_is_for_the_user_who_called() {
    let served = Served::new(&[], patient()).await;
    served.file(&NodeId::ROOT, "file").await;
    let (mut root, mut user) = (served.client().await, served.client().await);
    user.caller = (1000, 1000);
    let top = root.mount(BUCKET).await.unwrap();
    let remove = named(&top, "file");
    let first = root.call_as(77, NFS, 12, &remove).await;
    assert_eq!(first.clone().u32(), OK);
    assert_ne!(user.call_as(77, NFS, 12, &remove).await.u32(), OK, "it is not theirs");
    user.caller = (0, 1000);
    assert_eq!(user.call_as(77, NFS, 12, &remove).await.u32(), NOENT, "a call of its own");
    user.caller = (0, 0);
    assert_eq!(user.call_as(77, NFS, 12, &remove).await, first, "sent twice");
}

/// The mode alone would let nobody but the owner in, or everybody of the group.
#[tokio::test]
async fn access_control_lists_count() {
    const NOTHING: u32 = u32::MAX;
    let served = Served::new(&[], patient()).await;
    let node = served.file(&NodeId::ROOT, "file").await;
    let mut list = 2u32.to_le_bytes().to_vec();
    // Owner, user 1000, group, mask, others.
    for (tag, rights, id) in [(1u16, 6u16, NOTHING), (2, 6, 1000), (4, 0, NOTHING), (16, 4, NOTHING), (32, 0, NOTHING)]
    {
        list.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    let (root, name) = (Caller::root(), "system.posix_acl_access");
    served.files.set_xattr(&root, &node, name, list.into(), None).await.unwrap();
    assert_eq!(served.files.attributes(&node).await.unwrap().mode, 0o640);
    let mut client = served.client().await;
    let directory = client.mount(BUCKET).await.unwrap();
    let file = client.lookup(&directory, "file").await.unwrap();
    for (caller, reads, bits) in [((1000, 1000), true, 1), ((1001, 0), false, 0), ((1001, 1000), false, 0)] {
        client.caller = caller;
        assert_eq!(client.read(&file, 0, 1).await.is_ok(), reads, "{caller:?}");
        assert!(client.write(&file, 0, b"no").await.is_err(), "the mask has no writing in it");
        let (status, mut results) = client.call(4, &Args::new().opaque(&file).u32(0x3f)).await;
        results.post();
        assert_eq!((status, results.u32()), (OK, bits), "{caller:?}");
    }
}
