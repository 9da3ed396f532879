//! P4 and P2 through all doors at once, over one engine in this process: the library, S3, a FUSE mount and NFS take turns at whatever one can do with a
//! file, and each time another of them looks. Needs root and /dev/fuse.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tombolo_core::engine::fs::{Caller, ROOT, RenameMode};
use tombolo_core::{BucketPath, CreateOptions, NodeId, OpenOptions, Secret, Segment};
use tombolo_fuse::{Mount, MountOptions, MountPath};
use tombolo_nfs::{Exports, NfsDoor, NfsLimits, NfsOptions};
use tombolo_tests::content::Content;
use tombolo_tests::door::{Door, EngineDoor, Item, S3Door};
use tombolo_tests::model::list_all;
use tombolo_tests::nfs::{Args, Nfs, OK};
use tombolo_tests::s3::{Client, Request};
use tombolo_tests::server::Site;
use tombolo_tests::wait;

const EXIST: u32 = 17;
/// Operations of the battery.
const OPERATIONS: usize = 400;

/// An open segment with its doors.
struct Open {
    runtime: Runtime,
    segment: Segment,
    path: BucketPath,
    s3: SocketAddr,
    nfs: SocketAddr,
    mount: Mount,
    point: PathBuf,
    stop: watch::Sender<bool>,
    _dir: tempfile::TempDir,
}

impl Open {
    fn new() -> Open {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().join("mnt");
        fs::create_dir(&point).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
        let path: BucketPath = "Test/lab/bucket".parse().unwrap();
        let here = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        let (stop, receiver) = watch::channel(false);
        let stopped = |mut stopped: watch::Receiver<bool>| async move { drop(stopped.wait_for(|stop| *stop).await) };
        let create = CreateOptions { name: "here".into(), cluster: "Test".into() };
        let segment = runtime.block_on(Segment::create(dir.path().join("s"), create, OpenOptions::default())).unwrap();
        EngineDoor::open(runtime.handle(), &segment, &path).unwrap();
        let (s3, nfs, mount) = runtime.block_on(async {
            let keys = Site::credentials();
            let keys = (keys.access_key, Secret(keys.secret_key));
            segment.catalog().create_user(&path.tenant, "user", Some(keys)).await.unwrap();
            let door = tombolo_s3::S3Door::bind(segment.clone(), &here, Default::default()).await.unwrap();
            let s3 = door.addresses().unwrap()[0];
            tokio::spawn(door.serve(stopped(receiver.clone())));
            let options =
                NfsOptions { exports: Exports::AllToLoopback, port_mapper: None, limits: NfsLimits::default() };
            let door = NfsDoor::bind(segment.clone(), &here, options).await.unwrap();
            let nfs = door.addresses().unwrap()[0];
            tokio::spawn(door.serve(stopped(receiver)));
            let what = MountPath::Bucket(path.clone(), Vec::new());
            let mount = Mount::new(segment.clone(), &what, &point, MountOptions::default()).await.unwrap();
            (s3, nfs, mount)
        });
        Open { runtime, segment, path, s3, nfs, mount, point, stop, _dir: dir }
    }

    fn library(&self) -> Library<'_> {
        Library { open: self, door: EngineDoor::open(self.runtime.handle(), &self.segment, &self.path).unwrap() }
    }

    fn s3(&self) -> Objects {
        let client = || Client::new(self.s3, Site::credentials());
        Objects { door: S3Door::open(client(), "bucket").unwrap(), client: client() }
    }

    fn nfs(&self) -> Far {
        let mut nfs = Nfs::connect(self.nfs);
        let root = nfs.mount("/Test/lab/bucket").unwrap();
        Far { nfs, root }
    }

    fn close(self) {
        self.runtime.block_on(self.mount.unmount()).unwrap();
        self.stop.send_replace(true);
    }
}

/// What one can do with files through any door. Names are `DIRECTORY/FILE`.
trait Files {
    /// The file has this content, whatever was there.
    fn put(&mut self, name: &str, bytes: &[u8]);
    /// What it has.
    fn get(&mut self, name: &str, size: usize) -> Option<Vec<u8>>;
    fn remove(&mut self, name: &str);
    /// It has another name, whatever was there.
    fn rename(&mut self, from: &str, to: &str);
    /// Names and sizes of all files.
    fn list(&mut self) -> BTreeMap<String, u64>;
}

struct Library<'a> {
    open: &'a Open,
    door: EngineDoor,
}

fn items(door: &mut impl Door) -> BTreeMap<String, u64> {
    let items = list_all(door, b"", None, None, 100).unwrap();
    let files = items.into_iter().filter_map(|item| match item {
        Item::Key(key, size) => Some((String::from_utf8(key).unwrap(), size)),
        Item::Prefix(_) => None,
    });
    files.filter(|(name, _)| !name.ends_with('/')).collect()
}

impl Files for Library<'_> {
    fn put(&mut self, name: &str, bytes: &[u8]) {
        let data = bytes::Bytes::copy_from_slice(bytes);
        let put = self.door.bucket().put(name, data, Default::default());
        self.open.runtime.block_on(put).unwrap();
    }

    fn get(&mut self, name: &str, size: usize) -> Option<Vec<u8>> {
        let bucket = self.door.bucket();
        let bytes = self.open.runtime.block_on(async {
            let object = bucket.get(name, Default::default()).await.ok()?;
            Some(object.bytes(0..object.info().size).await.unwrap().to_vec())
        });
        bytes.inspect(|bytes| assert!(bytes.len() <= size, "{name} is longer than {size}"))
    }

    fn remove(&mut self, name: &str) {
        self.door.delete(&[name.into()]).unwrap();
    }

    fn rename(&mut self, from: &str, to: &str) {
        self.open.runtime.block_on(async {
            let (files, root) = (self.door.bucket().file_system(), Caller::root());
            let mut places: Vec<(NodeId, &[u8])> = Vec::new();
            for (directory, file) in [from, to].map(|name| name.split_once('/').unwrap()) {
                let set = Default::default();
                let node = match files.make_directory(&root, &ROOT, directory.as_bytes(), set).await {
                    Ok(made) => made.attributes.node,
                    Err(_) => files.lookup(&root, &ROOT, directory.as_bytes()).await.unwrap().node,
                };
                places.push((node, file.as_bytes()));
            }
            let [from, to] = [places[0], places[1]];
            files.rename(&root, (&from.0, from.1), (&to.0, to.1), RenameMode::Replace).await.unwrap();
        });
    }

    fn list(&mut self) -> BTreeMap<String, u64> {
        items(&mut self.door)
    }
}

struct Objects {
    door: S3Door,
    client: Client,
}

impl Files for Objects {
    fn put(&mut self, name: &str, bytes: &[u8]) {
        let path = format!("/bucket/{name}");
        let request = Request { method: "PUT", path: path.as_bytes(), body: bytes, ..Request::default() };
        let answer = self.client.send(&request).unwrap();
        assert!(answer.is_success(), "{name}: {}", answer.text());
    }

    fn get(&mut self, name: &str, size: usize) -> Option<Vec<u8>> {
        self.door.read_range(name.as_bytes(), 0..size as u64 + 1).ok()
    }

    fn remove(&mut self, name: &str) {
        self.door.delete(&[name.into()]).unwrap();
    }

    fn rename(&mut self, from: &str, to: &str) {
        assert!(self.door.copy(from.as_bytes(), to.as_bytes()).unwrap());
        self.remove(from);
    }

    fn list(&mut self) -> BTreeMap<String, u64> {
        items(&mut self.door)
    }
}

/// The mount. The kernel hears of what other doors change a moment later.
struct Mounted(PathBuf);

impl Files for Mounted {
    fn put(&mut self, name: &str, bytes: &[u8]) {
        let path = self.0.join(name);
        // The directory may have gone with its last file.
        wait::until("the file to be written", || {
            fs::create_dir_all(path.parent().unwrap()).ok()?;
            fs::write(&path, bytes).ok()
        });
    }

    fn get(&mut self, name: &str, _: usize) -> Option<Vec<u8>> {
        fs::read(self.0.join(name)).ok()
    }

    fn remove(&mut self, name: &str) {
        // It has been there for other doors.
        wait::until("the file to go", || fs::remove_file(self.0.join(name)).ok());
    }

    fn rename(&mut self, from: &str, to: &str) {
        let to = self.0.join(to);
        wait::until("the file to be renamed", || {
            fs::create_dir_all(to.parent().unwrap()).ok()?;
            fs::rename(self.0.join(from), &to).ok()
        });
    }

    fn list(&mut self) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        for directory in fs::read_dir(&self.0).unwrap().flatten() {
            for file in fs::read_dir(directory.path()).into_iter().flatten().flatten() {
                let name = [directory.file_name(), file.file_name()].map(|name| name.into_string().unwrap()).join("/");
                if let Ok(metadata) = file.metadata() {
                    found.insert(name, metadata.len());
                }
            }
        }
        found
    }
}

struct Far {
    nfs: Nfs,
    root: Vec<u8>,
}

impl Far {
    fn directory(&mut self, name: &str) -> Vec<u8> {
        match self.nfs.mkdir(&self.root, name, 0o755) {
            Ok(handle) => handle,
            Err(EXIST) => self.nfs.lookup(&self.root, name).unwrap(),
            Err(status) => panic!("MKDIR: {status}"),
        }
    }
}

impl Files for Far {
    fn put(&mut self, name: &str, bytes: &[u8]) {
        let (directory, file) = name.split_once('/').unwrap();
        let directory = self.directory(directory);
        // Unchecked, cut to nothing.
        let args = Args::new().opaque(&directory).opaque(file.as_bytes()).u32(0).set(None, Some(0));
        let file = self.nfs.made(8, &args).unwrap();
        for (number, piece) in bytes.chunks(100_000).enumerate() {
            self.nfs.write(&file, number as u64 * 100_000, piece, 0).unwrap();
        }
        self.nfs.commit(&file).unwrap();
    }

    fn get(&mut self, name: &str, size: usize) -> Option<Vec<u8>> {
        let (directory, file) = name.split_once('/').unwrap();
        let directory = self.nfs.lookup(&self.root, directory).ok()?;
        let file = self.nfs.lookup(&directory, file).ok()?;
        let (bytes, is_end) = self.nfs.read(&file, 0, size as u32 + 1).unwrap();
        assert!(is_end, "{name} is longer than {size}");
        Some(bytes)
    }

    fn remove(&mut self, name: &str) {
        let (directory, file) = name.split_once('/').unwrap();
        let directory = self.directory(directory);
        assert_eq!(self.nfs.call(12, &Args::new().opaque(&directory).opaque(file.as_bytes())).0, OK);
    }

    fn rename(&mut self, from: &str, to: &str) {
        let mut args = Args::new();
        for name in [from, to] {
            let (directory, file) = name.split_once('/').unwrap();
            args = args.opaque(&self.directory(directory)).opaque(file.as_bytes());
        }
        assert_eq!(self.nfs.call(14, &args).0, OK);
    }

    fn list(&mut self) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        let names = |nfs: &mut Nfs, directory: &[u8]| {
            let names = nfs.names(directory, 4096);
            names.into_iter().filter(|name| !name.starts_with('.')).collect::<Vec<_>>()
        };
        for directory in names(&mut self.nfs, &self.root) {
            let handle = self.nfs.lookup(&self.root, &directory).unwrap();
            for file in names(&mut self.nfs, &handle) {
                let node = self.nfs.lookup(&handle, &file).unwrap();
                found.insert(format!("{directory}/{file}"), self.nfs.attributes(&node).unwrap().size);
            }
        }
        found
    }
}

#[test]
fn what_one_door_does_every_other_sees() {
    let seed = std::env::var("TOMBOLO_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("TOMBOLO_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let open = Open::new();
    let (mut library, mut s3, mut mounted, mut far) =
        (open.library(), open.s3(), Mounted(open.point.clone()), open.nfs());
    let mut doors: [(&str, &mut dyn Files); 4] =
        [("library", &mut library), ("S3", &mut s3), ("mount", &mut mounted), ("NFS", &mut far)];
    let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for number in 0..OPERATIONS {
        let (by, other) = (random.random_range(0..4), random.random_range(0..4));
        let name = format!("d{}/f{}", random.random_range(0..3), random.random_range(0..4));
        let there: Vec<String> = model.keys().cloned().collect();
        let (door, looker) = (doors[by].0, doors[other].0);
        let what = match (random.random_range(0..10), there.choose(&mut random)) {
            (0..2, Some(from)) if *from != name => {
                doors[by].1.rename(from, &name);
                let bytes = model.remove(from).unwrap();
                model.insert(name.clone(), bytes);
                wait::until(&format!("{from} to be gone, by {looker}"), || {
                    doors[other].1.get(from, 1).is_none().then_some(())
                });
                format!("{from} -> {name}")
            }
            (2..4, Some(gone)) => {
                doors[by].1.remove(gone);
                model.remove(gone);
                wait::until(&format!("{gone} to be gone, by {looker}"), || {
                    doors[other].1.get(gone, 1).is_none().then_some(())
                });
                continue;
            }
            _ => {
                let size = *[1, 100, 5000, 70_000, 400_000].choose(&mut random).unwrap();
                let bytes = Content::new(number as u64, size).bytes();
                doors[by].1.put(&name, &bytes);
                model.insert(name.clone(), bytes);
                name.clone()
            }
        };
        let is_same = |found: Option<Vec<u8>>| found.as_ref() == model.get(&name);
        let what = format!("{number}: {what} by {door}, then {looker}");
        // Only the mount may be late.
        let size = model[&name].len();
        if looker == "mount" {
            wait::until(&what, || is_same(doors[other].1.get(&name, size)).then_some(()));
        } else {
            assert!(is_same(doors[other].1.get(&name, size)), "{what}");
        }
        if number % 20 == 0 {
            let expected: BTreeMap<String, u64> =
                model.iter().map(|(name, b)| (name.clone(), b.len() as u64)).collect();
            for (looker, door) in &mut doors {
                if *looker == "mount" {
                    wait::until("the same listing", || (door.list() == expected).then_some(()));
                } else {
                    assert_eq!(door.list(), expected, "{number}: listed by {looker}");
                }
            }
        }
    }
    open.close();
}

/// Who says which content it is, before the content.
fn said(number: u64) -> Vec<u8> {
    let size = 1000 + (number * 7919 % 300_000) as usize;
    [&number.to_be_bytes()[..], &Content::new(number, size).bytes()].concat()
}

fn is_whole(bytes: &[u8]) -> bool {
    let number = bytes.first_chunk().map(|head| u64::from_be_bytes(*head));
    number.is_some_and(|number| said(number) == bytes)
}

#[test]
fn writers_at_all_doors_and_readers_see_whole_versions() {
    const ROUNDS: u64 = 40;
    let open = Open::new();
    open.library().put("d/file", &said(0));
    let writing = AtomicUsize::new(4);
    let write = |by: u64, door: &mut dyn Files, is_file: bool| {
        for round in 0..ROUNDS {
            let bytes = said(by * ROUNDS + round);
            if is_file {
                // As programs do that don't want to be seen half way.
                let draft = format!("d/draft-{by}");
                door.put(&draft, &bytes);
                door.rename(&draft, "d/file");
            } else {
                door.put("d/file", &bytes);
            }
        }
        writing.fetch_sub(1, Ordering::AcqRel);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| write(1, &mut open.library(), false));
        scope.spawn(|| write(2, &mut open.s3(), false));
        scope.spawn(|| write(3, &mut Mounted(open.point.clone()), true));
        scope.spawn(|| write(4, &mut open.nfs(), true));
        scope.spawn(|| {
            let (mut library, mut s3, mut reads) = (open.library(), open.s3(), 0);
            while writing.load(Ordering::Acquire) > 0 || reads == 0 {
                for door in [&mut library as &mut dyn Files, &mut s3] {
                    let bytes = door.get("d/file", 1 << 20).expect("it is always there");
                    assert!(is_whole(&bytes), "{} bytes are no whole version", bytes.len());
                }
                reads += 1;
            }
        });
    });
    let last = open.library().get("d/file", 1 << 20).unwrap();
    assert!(is_whole(&last));
    assert_eq!(open.s3().get("d/file", 1 << 20).unwrap(), last);
    assert_eq!(open.nfs().get("d/file", last.len()).unwrap(), last);
    wait::until("the mount", || (Mounted(open.point.clone()).get("d/file", 0)? == last).then_some(()));
    open.close();
}
