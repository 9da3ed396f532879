//! The NFS door: each procedure and its refusals, what clients on bad links and hostile ones send, an independent client (libnfs) beside S3, and P1
//! under SIGKILL.
//!
//! `TOMBOLO_CRASH_CYCLES` sets the number of kills.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tombolo_tests::command::{run, tool};
use tombolo_tests::content::Content;
use tombolo_tests::door::{Door, S3Door};
use tombolo_tests::nfs::{Args, GONE, MOUNT, NFS, Nfs, OK, PORTMAP};
use tombolo_tests::server::{Server, Site, free_port};
use tombolo_tests::wait;

const PERM: u32 = 1;
const NOENT: u32 = 2;
const ACCES: u32 = 13;
const EXIST: u32 = 17;
const NOTDIR: u32 = 20;
const ISDIR: u32 = 21;
const ROFS: u32 = 30;
const NAMETOOLONG: u32 = 63;
const NOTEMPTY: u32 = 66;
const STALE: u32 = 70;
const BADHANDLE: u32 = 10_001;
const NOT_SYNC: u32 = 10_002;
const TOOSMALL: u32 = 10_005;
const BADTYPE: u32 = 10_007;

const UNSTABLE: u32 = 0;
const FILE_SYNC: u32 = 2;

const EXPORT: &str = "/Test/lab/bucket";

struct Exported {
    site: Site,
    server: Option<Server>,
    address: SocketAddr,
    exports: Vec<String>,
}

impl Exported {
    fn new(exports: &[&str]) -> Exported {
        let site = Site::new();
        site.tombolo(&["bucket", "create", "Test/lab/bucket"]);
        site.tombolo(&["bucket", "create", "Test/lab/other"]);
        let exports = exports.iter().map(|export| (*export).to_owned()).collect();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut exported = Exported { site, server: None, address, exports };
        exported.serve();
        exported
    }

    fn serve(&mut self) {
        let address = self.address.to_string();
        let mut arguments = vec!["--nfs", &address];
        for export in &self.exports {
            arguments.extend(["--nfs-export", export]);
        }
        self.server = Some(self.site.serve_with(&arguments));
    }

    fn client(&self) -> Nfs {
        Nfs::connect(self.address)
    }

    fn s3(&self) -> S3Door {
        S3Door::open(self.server.as_ref().unwrap().client(), "bucket").unwrap()
    }

    /// Bytes of memory that the server has.
    fn resident(&self) -> u64 {
        let status = format!("/proc/{}/status", self.server.as_ref().unwrap().process_id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }
}

#[test]
fn every_procedure_does_what_it_says() {
    let exported = Exported::new(&[]);
    let mut nfs = exported.client();
    let root = nfs.mount(EXPORT).unwrap();
    assert_eq!(nfs.attributes(&root).unwrap().kind, 2);

    // CREATE in its three ways.
    let file = nfs.create(&root, "file", 0o640).unwrap();
    assert_eq!(nfs.create(&root, "file", 0o640), Err(EXIST));
    let unchecked = Args::new().opaque(&root).opaque(b"file").u32(0).set(None, Some(0));
    assert_eq!(nfs.made(8, &unchecked).unwrap(), file);
    let exclusive = |verifier: u64| Args::new().opaque(&root).opaque(b"exclusive").u32(2).u64(verifier);
    let first = nfs.made(8, &exclusive(7)).unwrap();
    assert_eq!(nfs.made(8, &exclusive(7)).unwrap(), first, "said twice");
    assert_eq!(nfs.made(8, &exclusive(8)), Err(EXIST));

    // WRITE, COMMIT and READ.
    let verifier = nfs.write(&file, 0, b"0123456789", UNSTABLE).unwrap();
    assert_eq!(nfs.commit(&file).unwrap(), verifier);
    assert_eq!(nfs.write(&file, 10, b"abc", FILE_SYNC).unwrap(), verifier);
    assert_eq!(nfs.read(&file, 0, 5).unwrap(), (b"01234".to_vec(), false));
    assert_eq!(nfs.read(&file, 8, 100).unwrap(), (b"89abc".to_vec(), true));
    assert_eq!(nfs.read(&file, 1000, 10).unwrap(), (Vec::new(), true));
    assert_eq!(nfs.read(&root, 0, 10), Err(ISDIR));
    let attributes = nfs.attributes(&file).unwrap();
    assert_eq!((attributes.size, attributes.mode, attributes.links), (13, 0o640, 1));

    // SETATTR with a guard that holds, and with one that does not: then nothing changes.
    let guarded = |mode: u32, ctime: u64| Args::new().opaque(&file).set(Some(mode), None).u32(1).u64(ctime);
    let ctime = nfs.attributes(&file).unwrap().ctime;
    let (status, mut results) = nfs.call(2, &guarded(0o600, ctime));
    assert_eq!(status, OK);
    let (before, after) = results.wcc();
    assert_eq!(before, Some(ctime));
    assert_eq!(nfs.call(2, &guarded(0o644, ctime)).0, NOT_SYNC);
    assert_eq!(nfs.attributes(&file).unwrap(), after.unwrap());

    // MKDIR, SYMLINK, MKNOD, LINK.
    let directory = nfs.mkdir(&root, "dir", 0o750).unwrap();
    assert_eq!(nfs.attributes(&directory).unwrap().mode, 0o750);
    assert_eq!(nfs.attributes(&root).unwrap().links, 3);
    let symlink = Args::new().opaque(&root).opaque(b"soft").set(None, None).opaque(b"dir/target");
    let link = nfs.made(10, &symlink).unwrap();
    let (status, mut results) = nfs.call(5, &Args::new().opaque(&link));
    results.post();
    assert_eq!((status, results.opaque()), (OK, b"dir/target".to_vec()));
    // Times of symbolic links can be set.
    let times = Args::new().opaque(&link).u32(0).u32(0).u32(0).u32(0).u32(0).u32(2).u32(77).u32(5).u32(0);
    assert_eq!(nfs.call(2, &times).0, OK);
    assert_eq!(nfs.attributes(&link).unwrap().mtime, 77 << 32 | 5);
    let fifo = Args::new().opaque(&directory).opaque(b"fifo").u32(7).set(Some(0o600), None);
    let fifo = nfs.made(11, &fifo).unwrap();
    assert_eq!(nfs.attributes(&fifo).unwrap().kind, 7);
    let device = Args::new().opaque(&directory).opaque(b"null").u32(4).set(Some(0o600), None).u32(1).u32(3);
    assert_eq!(nfs.made(11, &device).map(|_| ()), Ok(()));
    assert_eq!(nfs.made(11, &Args::new().opaque(&directory).opaque(b"x").u32(2)), Err(BADTYPE));
    let (status, mut results) = nfs.call(15, &Args::new().opaque(&file).opaque(&directory).opaque(b"hard"));
    assert_eq!((status, results.post().unwrap().links), (OK, 2));
    let (before, after) = results.wcc();
    assert!(before.unwrap() < after.unwrap().ctime);

    // LOOKUP, and what is above.
    assert_eq!(nfs.lookup(&directory, "hard").unwrap(), file);
    assert_eq!(nfs.lookup(&directory, "..").unwrap(), root);
    assert_eq!(nfs.lookup(&root, "..").unwrap(), root, "nothing is above an export");
    assert_eq!(nfs.lookup(&root, "nothing"), Err(NOENT));
    assert_eq!(nfs.lookup(&file, "x"), Err(NOTDIR));
    assert_eq!(nfs.create(&root, &"x".repeat(300), 0o600), Err(NAMETOOLONG));

    // RENAME, REMOVE and RMDIR, each of its own kind.
    let rename = |from: &str, to: &str| {
        Args::new().opaque(&root).opaque(from.as_bytes()).opaque(&directory).opaque(to.as_bytes())
    };
    assert_eq!(nfs.call(14, &rename("file", "moved")).0, OK);
    assert_eq!(nfs.lookup(&directory, "moved").unwrap(), file, "the handle stays");
    let named = |directory: &[u8], name: &str| Args::new().opaque(directory).opaque(name.as_bytes());
    assert_eq!(nfs.call(12, &named(&root, "dir")).0, ISDIR);
    assert_eq!(nfs.call(13, &named(&directory, "moved")).0, NOTDIR);
    assert_eq!(nfs.call(13, &named(&root, "dir")).0, NOTEMPTY);
    for name in ["moved", "hard", "fifo", "null"] {
        let (status, mut results) = nfs.call(12, &named(&directory, name));
        assert_eq!(status, OK);
        results.wcc();
        results.end();
    }
    assert_eq!(nfs.attributes(&file), Err(STALE));
    assert_eq!(nfs.call(13, &named(&root, "dir")).0, OK);
    assert_eq!(nfs.attributes(&directory), Err(STALE));

    // FSSTAT, FSINFO, PATHCONF.
    let (status, mut results) = nfs.call(18, &Args::new().opaque(&root));
    results.post();
    assert!(status == OK && results.u64() >= results.u64());
    let (status, mut results) = nfs.call(19, &Args::new().opaque(&root));
    results.post();
    assert_eq!((status, results.u32()), (OK, 1 << 20));
    let (status, mut results) = nfs.call(20, &Args::new().opaque(&root));
    results.post();
    results.u32();
    assert_eq!((status, results.u32()), (OK, 255));
    nfs.call_as(9, NFS, 3, 0, &Args::new()).1.end();
}

#[test]
fn who_calls_decides() {
    let exported = Exported::new(&[
        "/Test/lab/bucket:insecure,no_root_squash",
        "/Test/lab/other:insecure,ro",
        "/Test/lab/other/sub:insecure,all_squash,anonuid=77,anongid=88",
        "/Test/lab/bucket/far:client=203.0.113.0/24,insecure",
    ]);
    let mut root = exported.client();
    let mut user = exported.client();
    user.caller = (1000, 100, vec![200]);
    let top = root.mount(EXPORT).unwrap();
    // Not all of these is one of the caller's groups.
    let file = root.create(&top, "file", 0o640).unwrap();
    assert_eq!(user.read(&file, 0, 1), Err(ACCES));
    assert_eq!(user.create(&top, "mine", 0o600), Err(ACCES));
    let chown = |gid: u32| Args::new().opaque(&file).u32(0).u32(0).u32(1).u32(gid).u32(0).u32(0).u32(0).u32(0);
    assert_eq!(root.call(2, &chown(200)).0, OK);
    assert!(user.read(&file, 0, 1).is_ok());
    assert_eq!(user.write(&file, 0, b"x", FILE_SYNC), Err(ACCES));
    assert_eq!(user.call(2, &chown(100)).0, PERM);
    let access = |nfs: &mut Nfs| {
        let (status, mut results) = nfs.call(4, &Args::new().opaque(&file).u32(0x3f));
        results.post();
        (status, results.u32())
    };
    assert_eq!((access(&mut user), access(&mut root)), ((OK, 0x01), (OK, 0x0d)));
    // An owner writes on, whatever the mode says by now.
    let chmod = Args::new().opaque(&top).set(Some(0o777), None).u32(0);
    assert_eq!(root.call(2, &chmod).0, OK);
    let mine = user.create(&top, "mine", 0o400).unwrap();
    assert!(user.write(&mine, 0, b"as it was opened", UNSTABLE).is_ok());
    assert_eq!(user.attributes(&mine).unwrap().uid, 1000);

    // Read-only; and root is nobody where it is squashed.
    let other = root.mount("/Test/lab/other").unwrap();
    assert_eq!(root.create(&other, "x", 0o600), Err(ROFS));
    exported.site.tombolo(&["put", "/etc/hostname", "Test/lab/other/sub/object"]);
    let sub = root.mount("/Test/lab/other/sub").unwrap();
    assert_eq!(root.create(&sub, "x", 0o600), Err(ACCES), "the directory is root's");
    assert!(root.lookup(&sub, "object").is_ok());
    assert_eq!(root.lookup(&sub, "..").unwrap(), sub);
    assert_eq!(root.mount("/Test/lab/oth"), Err(NOENT), "a part of a name is no name");
    assert_eq!(root.mount("/Test/lab/nothing"), Err(NOENT));
    assert_eq!(root.mount("/Test/lab/bucket/far"), Err(ACCES));
    assert_eq!(root.mount("/Test/lab/bucket/file"), Err(NOTDIR));
    // EXPORT shows what this client may mount.
    let (_, mut results) = root.call_as(1, MOUNT, 3, 5, &Args::new());
    let mut paths = BTreeSet::new();
    while results.u32() == 1 {
        paths.insert(String::from_utf8(results.opaque()).unwrap());
        let mut groups = Vec::new();
        while results.u32() == 1 {
            groups.push(String::from_utf8(results.opaque()).unwrap());
        }
        assert_eq!(groups, ["127.0.0.0/8", "::1/128"], "this host alone");
    }
    let expected = ["/Test/lab/bucket", "/Test/lab/other", "/Test/lab/other/sub"];
    assert_eq!(paths.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn handles_outlive_restarts_and_cannot_be_forged() {
    let mut exported = Exported::new(&[]);
    let (directory, file, verifier) = {
        let mut nfs = exported.client();
        let root = nfs.mount(EXPORT).unwrap();
        let directory = nfs.mkdir(&root, "dir", 0o755).unwrap();
        let file = nfs.create(&directory, "file", 0o644).unwrap();
        let verifier = nfs.write(&file, 0, b"kept", FILE_SYNC).unwrap();
        let rename = Args::new().opaque(&root).opaque(b"dir").opaque(&root).opaque(b"renamed");
        assert_eq!(nfs.call(14, &rename).0, OK);
        (directory, file, verifier)
    };
    exported.server.take().unwrap().kill();
    exported.serve();
    let mut nfs = exported.client();
    assert_eq!(nfs.read(&file, 0, 10).unwrap().0, b"kept");
    assert_eq!(nfs.lookup(&directory, "file").unwrap(), file);
    assert_ne!(nfs.commit(&file).unwrap(), verifier, "what was not committed before must be sent again");
    // Every byte counts, and so does the length.
    for at in 0..file.len() {
        let mut forged = file.clone();
        forged[at] ^= 0x40;
        assert_eq!(nfs.attributes(&forged), Err(BADHANDLE), "byte {at}");
    }
    assert_eq!(nfs.attributes(&file[..20]), Err(BADHANDLE));
    assert_eq!(nfs.attributes(&[]), Err(BADHANDLE));
    // A bucket that is gone, and another one under its name.
    let other = nfs.mount("/Test/lab/other").unwrap();
    exported.site.tombolo(&["bucket", "delete", "Test/lab/other"]);
    assert_eq!(nfs.attributes(&other), Err(STALE));
    exported.site.tombolo(&["bucket", "create", "Test/lab/other"]);
    assert_eq!(nfs.attributes(&other), Err(STALE));
    assert!(nfs.mount("/Test/lab/other").is_ok());
}

#[test]
fn a_call_sent_twice_is_done_once() {
    let exported = Exported::new(&[]);
    let mut nfs = exported.client();
    let root = nfs.mount(EXPORT).unwrap();
    nfs.create(&root, "file", 0o644).unwrap();
    let remove = Args::new().opaque(&root).opaque(b"file");
    let (_, mut first) = nfs.call_as(77, NFS, 3, 12, &remove);
    // From another port, as after a broken connection.
    let mut again = exported.client();
    let (_, second) = again.call_as(77, NFS, 3, 12, &remove);
    assert_eq!(first.0, second.0);
    assert_eq!(first.u32(), OK);
    let (_, mut third) = again.call_as(78, NFS, 3, 12, &remove);
    assert_eq!(third.u32(), NOENT);
}

#[test]
fn directories_are_listed_whole_while_they_change() {
    let exported = Exported::new(&[]);
    let mut nfs = exported.client();
    let root = nfs.mount(EXPORT).unwrap();
    let directory = nfs.mkdir(&root, "dir", 0o755).unwrap();
    let stays: BTreeSet<String> = (0..1500).map(|number| format!("stays-{number:05}")).collect();
    let mut s3 = exported.s3();
    for name in &stays {
        s3.put(format!("dir/{name}").as_bytes(), Content::new(1, 0), false).unwrap();
    }
    let expected: BTreeSet<String> = stays.iter().cloned().chain([".".into(), "..".into()]).collect();
    for count in [512, 4096, 32_768, 1 << 20] {
        let names = nfs.names(&directory, count);
        assert_eq!(names.len(), expected.len(), "each once, {count} bytes at a time");
        assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), expected);
    }
    // Others come and go; also the one that the listing stands at.
    let (mut seen, mut cookie, mut step) = (Vec::new(), 0, 0);
    loop {
        let (entries, is_end) = nfs.read_directory(&directory, cookie, 2048).unwrap();
        cookie = entries.last().map_or(cookie, |(_, cookie)| *cookie);
        seen.extend(entries.into_iter().map(|(name, _)| name));
        if is_end {
            break;
        }
        step += 1;
        let name = format!("{}-{step}", seen.last().unwrap());
        nfs.create(&directory, &name, 0o644).unwrap();
        let last = seen.last().unwrap().clone();
        if last.contains('-') && last.matches('-').count() > 1 {
            assert_eq!(nfs.call(12, &Args::new().opaque(&directory).opaque(last.as_bytes())).0, OK);
        }
    }
    let of_those: Vec<_> = seen.iter().filter(|name| stays.contains(*name)).collect();
    assert_eq!(of_those.len(), stays.len(), "what stays is seen, once");
    let first = nfs.read_directory(&directory, 123_456_789, 4096).unwrap().0.remove(0);
    let (from_the_start, _) = nfs.read_directory(&directory, 0, 4096).unwrap();
    assert_eq!(Some(&first), from_the_start.iter().find(|(name, _)| !name.starts_with('.')), "nothing is left out");
    assert_eq!(nfs.read_directory(&directory, 0, 100), Err(TOOSMALL));

    // READDIRPLUS: attributes and handles that are good.
    let args = Args::new().opaque(&directory).u64(0).u64(0).u32(4096).u32(8192);
    let (status, mut results) = nfs.call(17, &args);
    assert!(status == OK && results.0.len() <= 8192);
    results.post();
    results.u64();
    let mut count = 0;
    while results.u32() == 1 {
        let number = results.u64();
        let name = results.opaque();
        results.u64();
        if let Some(attributes) = results.post() {
            assert_eq!(attributes.number, number);
        }
        if results.u32() == 1 {
            let handle = results.opaque();
            assert_eq!(nfs.lookup(&directory, std::str::from_utf8(&name).unwrap()).unwrap(), handle);
            count += 1;
        }
    }
    assert!(count > 10);
}

#[test]
fn other_programs_and_versions_are_refused_politely() {
    let exported = Exported::new(&[]);
    let mut nfs = exported.client();
    let none = Args::new();
    // NFSACL and RQUOTA; NFS 4 and 2; a procedure beyond the last; arguments that are none.
    assert_eq!(nfs.call_as(1, 100_227, 3, 0, &none).0, 1);
    assert_eq!(nfs.call_as(2, 100_011, 1, 0, &none).0, 1);
    for version in [2, 4] {
        let (status, mut results) = nfs.call_as(3, NFS, version, 0, &none);
        assert_eq!((status, results.u32(), results.u32()), (2, 3, 3));
    }
    assert_eq!(nfs.call_as(4, NFS, 3, 22, &none).0, 3);
    for procedure in 1..22 {
        assert_eq!(nfs.call_as(5 + procedure, NFS, 3, procedure, &none).0, 4, "procedure {procedure}");
    }
    let port = u32::from(exported.address.port());
    for (program, version, protocol, expected) in
        [(NFS, 3, 6, port), (MOUNT, 3, 6, port), (NFS, 3, 17, 0), (NFS, 4, 6, 0)]
    {
        let args = Args::new().u32(program).u32(version).u32(protocol).u32(0);
        assert_eq!(nfs.call_as(50, PORTMAP, 2, 3, &args).1.u32(), expected);
    }
    // Credentials of another kind get an answer, and the connection goes on.
    let mut message = nfs.message(60, NFS, 3, 0, &none);
    message[24..28].copy_from_slice(&6u32.to_be_bytes());
    nfs.send(&message);
    let mut reply = nfs.receive().unwrap();
    assert_eq!((reply.u32(), reply.u32(), reply.u32(), reply.u32(), reply.u32()), (60, 1, 1, 1, 5));
    assert!(nfs.mount(EXPORT).is_ok());
}

#[test]
fn nonsense_leaves_the_server_well() {
    let exported = Exported::new(&[]);
    let mut good = exported.client();
    let root = good.mount(EXPORT).unwrap();
    let before = exported.resident();
    let mut held = Vec::new();
    for round in 0..20 {
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: nfs\r\n\r\n"[..],
            b"\xff\xff\xff\xff",
            b"\x80\x00\x00\x00",
            b"\x80\x10\x00\x00only the beginning of a megabyte",
            b"\x00\x00\x00\x04abcd\x80\x00\x00\x04efgh",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ] {
            let mut bad = exported.client();
            // The server may hang up in between.
            let _ = bad.send_raw(bytes);
            held.push(bad);
        }
        // Lengths that nothing stands behind, in every argument that has one.
        for procedure in 1..22 {
            let mut bad = exported.client();
            let (status, _) = bad.call_as(round, NFS, 3, procedure, &Args::new().u32(0xffff_fff0));
            assert_eq!(status, 4);
        }
        // Fragments without end.
        let mut bad = exported.client();
        let _ = bad.send_raw(&[0; 4096]);
        held.push(bad);
        assert_eq!(good.attributes(&root).unwrap().kind, 2);
    }
    assert!(exported.resident() < before + (64 << 20), "{} -> {}", before, exported.resident());
    // Many calls at once on one connection are all answered, whatever order.
    let mut burst = exported.client();
    let message = |burst: &Nfs, xid| burst.message(xid, NFS, 3, 1, &Args::new().opaque(&root));
    for xid in 0..1000 {
        let message = message(&burst, xid);
        burst.send(&message);
    }
    let answered: BTreeSet<u32> = (0..1000).map(|_| burst.receive().unwrap().u32()).collect();
    assert_eq!(answered.len(), 1000);
}

#[test]
fn libnfs_and_s3_see_the_same_bytes() {
    let exported = Exported::new(&[]);
    let port = exported.address.port();
    let url = |path: &str| format!("nfs://127.0.0.1{EXPORT}{path}?nfsport={port}&mountport={port}&version=3");
    let scratch = exported.site.scratch("libnfs");
    let mut s3 = exported.s3();
    for (number, size) in [(1, 0), (2, 10), (3, 100_000), (4, 7 << 20)] {
        let content = Content::new(number, size);
        let (here, back) = (scratch.join(format!("{number}")), scratch.join(format!("{number}.back")));
        std::fs::write(&here, content.bytes()).unwrap();
        run(Command::new(tool("nfs-cp")).arg(&here).arg(url(&format!("/by-nfs-{number}")))).success();
        let key = format!("by-nfs-{number}");
        // No COMMIT comes with closing; the file is a version when it was quiet for a while.
        wait::until("the object", || {
            let bytes = s3.read_range(key.as_bytes(), 0..(size as u64).max(1)).unwrap_or_default();
            (bytes == content.bytes()).then_some(())
        });
        s3.put(format!("by-s3-{number}").as_bytes(), content, false).unwrap();
        run(Command::new(tool("nfs-cp")).arg(url(&format!("/by-s3-{number}"))).arg(&back)).success();
        assert!(std::fs::read(&back).unwrap() == content.bytes());
    }
    let listing = run(Command::new(tool("nfs-ls")).arg(url(""))).success();
    assert_eq!(listing.lines().count(), 8, "{listing}");
}

/// Names of each writer in the test of kills; they come again, so that files are replaced and removed.
const NAMES: u64 = 20;

/// What was acknowledged: content by name, `None` of a file that was removed.
type Kept = Mutex<BTreeMap<String, Option<Content>>>;

/// Makes, replaces and removes files until the server is gone; ends with the status that it could not go on with.
fn work(nfs: &mut Nfs, root: &[u8], writer: usize, cycle: u64, kept: &Kept, count: &AtomicUsize) -> Result<(), u32> {
    for number in 0.. {
        let name = format!("{writer}-{}", number % NAMES);
        // What the name shows is one thing or the other until this is acknowledged.
        let before = kept.lock().unwrap().remove(&name).flatten();
        if number % 7 == 6 {
            match nfs.call(12, &Args::new().opaque(root).opaque(name.as_bytes())).0 {
                OK => {}
                // In doubt since the last kill.
                NOENT if before.is_none() => {}
                status => return Err(status),
            }
            kept.lock().unwrap().insert(name, None);
            count.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let content = Content::new(cycle * 1000 + number, [20, 5000, 90_000, 400_000][number as usize % 4]);
        let bytes = content.bytes();
        // Every third replaces what is there by renaming, the others by cutting and writing.
        let target = if number % 3 == 0 { format!("{name}.new") } else { name.clone() };
        let cut = Args::new().opaque(root).opaque(target.as_bytes()).u32(0).set(Some(0o644), Some(0));
        let file = nfs.made(8, &cut)?;
        if number % 2 == 0 {
            nfs.write(&file, 0, &bytes, FILE_SYNC)?;
        } else {
            let half = bytes.len() / 2;
            let verifier = nfs.write(&file, half as u64, &bytes[half..], UNSTABLE)?;
            assert_eq!(nfs.write(&file, 0, &bytes[..half], UNSTABLE)?, verifier);
            assert_eq!(nfs.commit(&file)?, verifier, "one life of the server");
        }
        if number % 3 == 0 {
            let rename = Args::new().opaque(root).opaque(target.as_bytes()).opaque(root).opaque(name.as_bytes());
            match nfs.call(14, &rename).0 {
                OK => {}
                status => return Err(status),
            }
        }
        kept.lock().unwrap().insert(name, Some(content));
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// The server was killed when all writers had ended: nothing was ever under way.
#[test]
fn what_was_acknowledged_outlives_a_kill() {
    let cycles = std::env::var("TOMBOLO_CRASH_CYCLES").map_or(10, |text| text.parse().unwrap());
    let mut exported = Exported::new(&[]);
    let root = exported.client().mount(EXPORT).unwrap();
    let kept: Kept = Mutex::default();
    for cycle in 1..=cycles {
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let (root, kept, count) = (&root, &kept, &count);
                let mut nfs = exported.client();
                scope.spawn(move || assert_eq!(work(&mut nfs, root, writer, cycle, kept, count), Err(GONE)));
            }
            let wanted = 60 + (cycle as usize * 7) % 20;
            wait::until("acknowledgements", || (count.load(Ordering::Relaxed) >= wanted).then_some(()));
            exported.server.take().unwrap().kill();
        });
        exported.serve();
        let mut nfs = exported.client();
        for (name, content) in kept.lock().unwrap().iter() {
            let found = nfs.lookup(&root, name);
            let Some(content) = content else {
                assert_eq!(found, Err(NOENT), "cycle {cycle}: {name} was removed");
                continue;
            };
            let file = found.unwrap_or_else(|status| panic!("cycle {cycle}: {name}: {status}"));
            let (bytes, is_end) = nfs.read(&file, 0, 1 << 20).unwrap();
            assert!(is_end && bytes == content.bytes(), "cycle {cycle}: {name} has other bytes");
        }
    }
    exported.site.tombolo(&["scrub"]);
}
