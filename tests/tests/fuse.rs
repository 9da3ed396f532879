//! P4 and P2 through a real mount: the kernel on one side, S3 and the command line on the other, the same bytes between them.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use tombolo_tests::command::{repository, run, tombolo, tool};
use tombolo_tests::content::Content;
use tombolo_tests::door::{Door, S3Door};
use tombolo_tests::model::list_all;
use tombolo_tests::mount::{BUCKET, KEPT, Mounted};
use tombolo_tests::server::Site;
use tombolo_tests::wait;

fn s3(mounted: &Mounted) -> S3Door {
    S3Door::open(mounted.server().client(), BUCKET).unwrap()
}

fn keys(door: &mut S3Door) -> Vec<String> {
    let items = list_all(door, b"", None, None, 1000).unwrap();
    items.iter().map(|item| String::from_utf8(item.name().to_vec()).unwrap()).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_the_mount_writes_is_an_object_at_once() {
    let site = Site::new();
    let mounted = Mounted::start(&site, KEPT);
    let (root, mut door) = (mounted.point(), s3(&mounted));
    for (number, size) in [(0, 0), (1, 1), (2, 4096), (3, 100_000), (4, 5 << 20)] {
        let content = Content::new(number, size);
        let key = format!("dir/object-{number}");
        fs::create_dir_all(root.join("dir")).unwrap();
        fs::write(root.join(&key), content.bytes()).unwrap();
        if size > 0 {
            assert_eq!(door.read_range(key.as_bytes(), 0..size as u64).unwrap(), content.bytes(), "{size} bytes");
        }
        // Over what is there, longer and shorter.
        let content = Content::new(number + 10, size / 2 + 7);
        fs::write(root.join(&key), content.bytes()).unwrap();
        assert_eq!(door.read_range(key.as_bytes(), 0..(size / 2 + 7) as u64).unwrap(), content.bytes());
    }
    fs::rename(root.join("dir"), root.join("moved")).unwrap();
    fs::hard_link(root.join("moved/object-1"), root.join("linked")).unwrap();
    fs::remove_file(root.join("moved/object-2")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    let expected =
        ["empty/", "linked", "moved/", "moved/object-0", "moved/object-1", "moved/object-3", "moved/object-4"];
    assert_eq!(keys(&mut door), expected);
    fs::remove_dir(root.join("empty")).unwrap();
    assert!(!keys(&mut door).contains(&"empty/".to_owned()));

    // A write under way is nobody else's: readers of whole objects see what was closed, or synced.
    let mut file = File::options().write(true).truncate(true).open(root.join("linked")).unwrap();
    file.write_all(b"half").unwrap();
    let before = Content::new(11, 7).bytes();
    assert_eq!(door.read_range(b"linked", 0..7).unwrap(), before);
    file.sync_all().unwrap();
    assert_eq!(door.read_range(b"linked", 0..4).unwrap(), b"half");
    assert_eq!(door.read_range(b"moved/object-1", 0..4).unwrap(), b"half", "one file under two names");
}

#[test]
fn what_other_doors_change_is_seen_through_the_mount() {
    let site = Site::new();
    let mounted = Mounted::start(&site, KEPT);
    let (root, mut door) = (mounted.point(), s3(&mounted));
    let read = |name: &str| fs::read(root.join(name));
    let is_missing = |name: &str| fs::metadata(root.join(name)).is_err_and(|error| error.kind() == ErrorKind::NotFound);

    assert!(is_missing("object"), "the kernel keeps that it is not there");
    assert!(names(root).is_empty());
    let (first, second) = (Content::new(1, 300_000), Content::new(2, 1000));
    door.put(b"object", first, false).unwrap();
    wait::until("a new object", || read("object").is_ok_and(|bytes| bytes == first.bytes()).then_some(()));
    assert_eq!(names(root), ["object"]);
    // Size and pages are the kernel's own where it writes back: a shorter content must replace both.
    fs::OpenOptions::new().append(true).open(root.join("object")).unwrap().write_all(b"tail").unwrap();
    door.put(b"object", second, false).unwrap();
    wait::until("a new content", || read("object").is_ok_and(|bytes| bytes == second.bytes()).then_some(()));
    assert_eq!(fs::metadata(root.join("object")).unwrap().len(), 1000);

    door.put(b"a/b/c", second, false).unwrap();
    wait::until("directories on the way", || read("a/b/c").is_ok().then_some(()));
    site.tombolo(&["mv", &format!("{}/{BUCKET}/a", Site::TENANT), &format!("{}/{BUCKET}/z", Site::TENANT)]);
    wait::until("a renamed directory", || (is_missing("a") && read("z/b/c").is_ok()).then_some(()));
    door.delete(&[b"object".to_vec(), b"z/b/c".to_vec()]).unwrap();
    wait::until("deletes", || (is_missing("object") && is_missing("z")).then_some(()));

    // One who has the directory open, and one who has the file open.
    door.put(b"dir/file", first, false).unwrap();
    let mut open = wait::until("the file", || File::open(root.join("dir/file")).ok());
    door.delete(&[b"dir/file".to_vec()]).unwrap();
    wait::until("its name to go", || is_missing("dir/file").then_some(()));
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, first.bytes(), "an open file stays readable");
}

/// What is written to a file that stays open is no version yet, and no mount but the writer's was told of it: the others showed the bytes and the size that
/// they had, for as long as they kept them.
#[test]
fn what_another_mount_writes_is_seen_before_it_is_saved() {
    let site = Site::new();
    let mounted = Mounted::start(&site, &format!("{KEPT},nowriteback"));
    let (place, mut door) = (mounted.point().join("file"), s3(&mounted));
    let mut expected = Content::new(1, 100_000).bytes();
    fs::write(&place, &expected).unwrap();
    assert_eq!(door.read_range(b"file", 0..100_000).unwrap(), expected, "it is saved");
    let others = [("only", "ro"), ("through", "nowriteback"), ("back", "rw")].map(|(name, options)| {
        let (point, path) = (site.scratch(name), format!("{}/{BUCKET}", Site::TENANT));
        site.tombolo(&["mount", &path, point.to_str().unwrap(), "-o", &format!("{options},{KEPT}")]);
        point
    });
    // To close it would be to save what was written: who looks has it open from here on.
    let mut readers: Vec<File> =
        others.iter().map(|point| wait::until("the file", || File::open(point.join("file")).ok())).collect();
    let sees = |reader: &File, expected: &[u8]| {
        let (mut bytes, size) = (vec![0; expected.len() + 1], reader.metadata().unwrap().len());
        let length = reader.read_at(&mut bytes, 0).unwrap();
        (bytes[..length] == *expected && size == expected.len() as u64).then_some(())
    };
    readers.iter().for_each(|reader| assert!(sees(reader, &expected).is_some()));
    let writer = File::options().write(true).open(&place).unwrap();
    writer.write_all_at(&[b'n'; 10_000], 5000).unwrap();
    expected[5000..15_000].fill(b'n');
    readers.iter().for_each(|reader| wait::until("new bytes", || sees(reader, &expected)));
    assert_ne!(door.read_range(b"file", 5000..5100).unwrap(), [b'n'; 100], "it is nobody else's yet");
    // Where the kernel writes back it owns the size of what somebody has open.
    drop(readers.pop());
    writer.write_all_at(b"tail", 100_000).unwrap();
    expected.extend(b"tail");
    readers.iter().for_each(|reader| wait::until("a longer file", || sees(reader, &expected)));
    writer.set_len(20_000).unwrap();
    expected.truncate(20_000);
    readers.iter().for_each(|reader| wait::until("a shorter file", || sees(reader, &expected)));
    let back = others[2].join("file");
    for size in [20_000, 20_004] {
        let is_as_long = || (fs::metadata(&back).unwrap().len() == size).then_some(());
        wait::until("its size where it is not open", is_as_long);
        if size == 20_000 {
            writer.write_all_at(b"more", size).unwrap();
        }
    }
    expected.extend(b"more");
    assert_eq!(fs::read(&back).unwrap(), expected);
    drop((writer, readers));
    others.iter().for_each(|point| drop(run(tombolo(["umount"]).arg(point)).success()));
}

/// The time of a directory that was set through another door took the directory's name from the kernel: whoever worked in it was nowhere any more.
#[test]
fn a_directory_that_another_mount_changes_stays_where_it_is() {
    let site = Site::new();
    let beside = site.scratch("beside");
    let second = format!("{}/{BUCKET}={}", Site::TENANT, beside.display());
    let mounted = Mounted::start_with(&site, KEPT, &["--mount", &second]);
    fs::create_dir(mounted.point().join("dir")).unwrap();
    let inside = beside.join("dir");
    let dir = wait::until("the directory", || File::open(&inside).ok());
    let script = "import os, sys\nfor _ in sys.stdin: print(os.getcwd(), flush=True)\n";
    let mut python = Command::new("python3");
    python.args(["-c", script]).current_dir(&inside).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().unwrap();
    let mut answers = std::io::BufRead::lines(std::io::BufReader::new(python.stdout.take().unwrap()));
    let mut asked = python.stdin.take().unwrap();
    let mut ask = || {
        asked.write_all(b"where\n").unwrap();
        answers.next().and_then(Result::ok)
    };
    let here = ask().unwrap();
    assert!(here.ends_with("beside/dir"), "{here}");
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(5);
    File::open(mounted.point().join("dir")).unwrap().set_modified(time).unwrap();
    // Nobody looks the name up: that would put it right.
    wait::until("the time", || (dir.metadata().unwrap().mtime() == 5).then_some(()));
    assert_eq!(ask().as_ref(), Some(&here));
    fs::set_permissions(mounted.point().join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
    wait::until("the mode", || (dir.metadata().unwrap().mode() == 0o040_700).then_some(()));
    assert_eq!(ask().as_ref(), Some(&here));
    // A name that leads elsewhere does go.
    fs::rename(mounted.point().join("dir"), mounted.point().join("moved")).unwrap();
    wait::until("the new name", || (!inside.exists() && beside.join("moved").exists()).then_some(()));
    drop(asked);
    python.wait().unwrap();
    run(Command::new("umount").arg("--lazy").arg(&beside)).success();
}

/// A file beside a directory of its name is shown under another name, and the kernel was told of the name that it does not have.
#[test]
fn what_has_another_name_here_is_told_of_by_that() {
    let site = Site::new();
    let mounted = Mounted::start(&site, KEPT);
    let (root, mut door) = (mounted.point(), s3(&mounted));
    let read = |name: &str| fs::read(root.join(name));
    let is_missing = |name: &str| fs::metadata(root.join(name)).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    let (first, second) = (Content::new(1, 300_000), Content::new(2, 1000));
    door.put(b"both", first, false).unwrap();
    wait::until("the file", || read("both").is_ok_and(|bytes| bytes == first.bytes()).then_some(()));
    door.put(b"both/in", second, false).unwrap();
    wait::until("its other name", || read("both%~").is_ok_and(|bytes| bytes == first.bytes()).then_some(()));
    wait::until("the directory", || read("both/in").is_ok_and(|bytes| bytes == second.bytes()).then_some(()));
    door.put(b"both", second, false).unwrap();
    wait::until("another content", || read("both%~").is_ok_and(|bytes| bytes == second.bytes()).then_some(()));
    door.delete(&[b"both".to_vec()]).unwrap();
    wait::until("the file to go", || is_missing("both%~").then_some(()));
    door.put(b"both", first, false).unwrap();
    wait::until("the file again", || read("both%~").is_ok_and(|bytes| bytes == first.bytes()).then_some(()));
    door.delete(&[b"both/in".to_vec()]).unwrap();
    let is_plain = || is_missing("both%~") && read("both").is_ok_and(|bytes| bytes == first.bytes());
    wait::until("its plain name", || is_plain().then_some(()));
}

#[test]
fn metadata_of_both_worlds_is_one() {
    let site = Site::new();
    let path = format!("{}/{BUCKET}", Site::TENANT);
    let settings = ["--set", "uid=1234", "--set", "gid=2345", "--set", "file-mode=640", "--set", "directory-mode=750"];
    site.tombolo(&[&["bucket", "create", &path][..], &settings].concat());
    let mounted = Mounted::start(&site, KEPT);
    let (root, mut door) = (mounted.point(), s3(&mounted));
    door.put(b"of/s3", Content::new(1, 10), false).unwrap();
    let file = wait::until("the object", || fs::metadata(root.join("of/s3")).ok());
    assert_eq!((file.uid(), file.gid(), file.mode()), (1234, 2345, 0o100_640));
    let dir = fs::metadata(root.join("of")).unwrap();
    assert_eq!((dir.uid(), dir.gid(), dir.mode()), (1234, 2345, 0o040_750));
    fs::set_permissions(root.join("of/s3"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("of/s3", root.join("link")).unwrap();
    assert_eq!(fs::read(root.join("link")).unwrap(), Content::new(1, 10).bytes());
    let stat = site.tombolo(&["--json", "stat", &format!("{path}/of/s3")]);
    assert!(stat.contains("\"0600\"") || stat.contains(&format!("{}", 0o600)), "{stat}");
}

#[test]
fn holes_are_kept_and_ranges_are_copied() {
    let site = Site::new();
    let mounted = Mounted::start(&site, "");
    let file = File::create(mounted.point().join("sparse")).unwrap();
    file.set_len(100 << 30).unwrap();
    file.write_all_at(b"in the middle", 50 << 30).unwrap();
    file.sync_all().unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), 100 << 30);
    assert!(meta.blocks() < 8192, "{} blocks", meta.blocks());
    drop(file);
    // cp finds the data by SEEK_DATA and copies it by copy_file_range.
    let (from, to) = (mounted.point().join("sparse"), mounted.point().join("copy"));
    run(Command::new("cp").arg("--sparse=auto").arg(&from).arg(&to)).success();
    let copy = File::open(&to).unwrap();
    let mut bytes = [0; 13];
    copy.read_exact_at(&mut bytes, 50 << 30).unwrap();
    assert_eq!(&bytes, b"in the middle");
    assert!(copy.metadata().unwrap().blocks() < 8192);
}

#[test]
fn writers_at_two_doors_leave_whole_contents() {
    let site = Site::new();
    let mounted = Mounted::start(&site, KEPT);
    let root = mounted.point();
    let is_over = AtomicBool::new(false);
    let contents: Vec<Vec<u8>> = (0..8).map(|number| Content::new(number, 200_000).bytes()).collect();
    let is_whole = |bytes: &[u8]| contents.iter().any(|content| content == bytes);
    s3(&mounted).put(b"shared", Content::new(0, 200_000), false).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (mut door, is_over) = (s3(&mounted), &is_over);
            scope.spawn(move || {
                for number in (0..8).cycle().skip(writer).take(40) {
                    door.put(b"shared", Content::new(number, 200_000), false).unwrap();
                }
                is_over.store(true, Ordering::Relaxed);
            });
        }
        // The way files are replaced whole by POSIX: written aside, and renamed.
        let (contents, is_over) = (&contents, &is_over);
        scope.spawn(move || {
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                number += 1;
                fs::write(root.join("aside"), &contents[number % 8]).unwrap();
                fs::rename(root.join("aside"), root.join("shared")).unwrap();
            }
        });
        let mut door = s3(&mounted);
        let mut reads = 0;
        while !is_over.load(Ordering::Relaxed) || reads < 20 {
            let bytes = door.read_range(b"shared", 0..200_000).unwrap();
            assert!(is_whole(&bytes), "a reader saw a mixture");
            reads += 1;
        }
    });
}

#[test]
fn mounts_come_and_go() {
    let site = Site::new();
    let mut mounted = Mounted::start(&site, "");
    let root = mounted.point().to_owned();
    fs::write(root.join("kept"), b"bytes").unwrap();
    let is_mounted = |point: &Path| fs::read_to_string("/proc/mounts").unwrap().contains(point.to_str().unwrap());

    // SIGTERM unmounts, also when somebody is inside; what is not closed yet is kept.
    let mut busy = Command::new("sleep").arg("1000").current_dir(&root).spawn().unwrap();
    let mut open = File::create(root.join("open")).unwrap();
    open.write_all(b"dirty").unwrap();
    mounted.stop();
    assert!(!is_mounted(&root));
    busy.kill().unwrap();
    busy.wait().unwrap();
    drop(open);

    // A dead mount is replaced.
    mounted.serve(&site);
    assert_eq!(fs::read(root.join("open")).unwrap(), b"dirty");
    mounted.kill();
    assert!(fs::read_dir(&root).is_err(), "nobody answers");
    mounted.serve(&site);
    assert_eq!(fs::read(root.join("kept")).unwrap(), b"bytes");

    // A second one, asked of the daemon; read-only.
    let second = site.scratch("second");
    let path = format!("{}/{BUCKET}", Site::TENANT);
    site.tombolo(&["mount", &path, second.to_str().unwrap(), "-o", "ro,fsname=second"]);
    assert_eq!(fs::read(second.join("kept")).unwrap(), b"bytes");
    assert_eq!(fs::write(second.join("new"), b"").unwrap_err().raw_os_error(), Some(30));
    assert!(
        fs::read_to_string("/proc/mounts")
            .unwrap()
            .lines()
            .any(|line| line.starts_with("second ") && line.contains(" fuse ro,"))
    );
    fs::write(root.join("new"), b"through the other").unwrap();
    wait::until("the other mount's file", || fs::read(second.join("new")).ok());
    run(tombolo(["umount"]).arg(&second)).success();
    assert!(!is_mounted(&second));

    // Everything, and what can't be mounted.
    let all = site.scratch("all");
    site.tombolo(&["mount", all.to_str().unwrap()]);
    assert_eq!(names(&all), ["Test"]);
    assert_eq!(names(&all.join("Test/lab")), [BUCKET]);
    assert_eq!(fs::read(all.join("Test/lab").join(BUCKET).join("kept")).unwrap(), b"bytes");
    assert_eq!(fs::create_dir(all.join("Test/other")).unwrap_err().raw_os_error(), Some(30));
    run(tombolo(["umount"]).arg(&all)).success();
    assert_eq!(run(&mut site.command(&["mount", "Test/lab/nothing", all.to_str().unwrap()])).code, Some(3));
    assert_eq!(run(&mut site.command(&["mount", &path, all.to_str().unwrap(), "-o", "colour=red"])).code, Some(2));
    mounted.stop();

    // Without a daemon: in the foreground until it is unmounted, and in the background as mount(8) wants it.
    let mut daemon = site.command(&["mount", &path, all.to_str().unwrap()]).stdout(Stdio::null()).spawn().unwrap();
    wait::until("the mount", || is_mounted(&all).then_some(()));
    fs::write(all.join("last"), b"words").unwrap();
    run(tombolo(["umount"]).arg(&all)).success();
    assert!(wait::until("the daemon to end", || daemon.try_wait().unwrap()).success());
    site.tombolo(&["mount", "--background", &path, all.to_str().unwrap()]);
    assert_eq!(fs::read(all.join("last")).unwrap(), b"words");
    run(tombolo(["umount"]).arg(&all)).success();
    assert_eq!(
        run(&mut site.command(&["mount", "--background", "Test/lab/nothing", all.to_str().unwrap()])).code,
        Some(3)
    );
    site.tombolo(&["ls", &path]);
}

/// A Python program that locks five bytes of a file: `hold` until it is killed, `wait` for them, `try` (ends with 7 if it can't).
fn locking(file: &Path, how: &str) -> Command {
    let script = "import fcntl, sys\nf = open(sys.argv[1], 'r+b')\n\
        how = fcntl.LOCK_EX | (fcntl.LOCK_NB if sys.argv[2] == 'try' else 0)\n\
        try:\n fcntl.lockf(f, how, 5, 2)\nexcept BlockingIOError:\n sys.exit(7)\nprint('held', flush=True)\n\
        if sys.argv[2] == 'hold': sys.stdin.read()\n";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(file).arg(how).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Whether a process waits for an answer of the mount.
fn waits_for_answer(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|call| call.contains("wait_answer"))
}

#[test]
fn record_locks_hold_between_processes_and_waiters_can_be_stopped() {
    let site = Site::new();
    let mounted = Mounted::start(&site, "");
    let file = mounted.point().join("locked");
    fs::write(&file, b"0123456789").unwrap();
    let python = |how: &str| locking(&file, how);
    let mut holder = python("hold").spawn().unwrap();
    let mut said = [0; 5];
    holder.stdout.take().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(python("try").status().unwrap().code(), Some(7));
    // One who waits can be killed, and one who waits on gets it.
    let mut stopped = python("wait").spawn().unwrap();
    let mut waiter = python("wait").spawn().unwrap();
    wait::until("both to wait", || (waits_for_answer(stopped.id()) && waits_for_answer(waiter.id())).then_some(()));
    stopped.kill().unwrap();
    wait::until("the killed one to end", || stopped.try_wait().unwrap());
    assert!(waiter.try_wait().unwrap().is_none());
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(wait::until("the waiter", || waiter.try_wait().unwrap()).success());
}

/// What was locked through a mount that was cut off stayed locked, for all doors, until the server ended.
#[test]
fn locks_end_with_a_mount_that_is_cut_off() {
    let site = Site::new();
    let beside = site.scratch("beside");
    let second = format!("{}/{BUCKET}={}", Site::TENANT, beside.display());
    let mounted = Mounted::start_with(&site, "", &["--mount", &second]);
    fs::write(mounted.point().join("locked"), b"0123456789").unwrap();
    let through = |mount: &Path, how: &str| locking(&mount.join("locked"), how);
    wait::until("the second mount", || fs::read(beside.join("locked")).ok());
    let mut holder = through(mounted.point(), "hold").spawn().unwrap();
    let mut said = [0; 5];
    holder.stdout.take().unwrap().read_exact(&mut said).unwrap();
    let mut waiter = through(mounted.point(), "wait").spawn().unwrap();
    wait::until("the other to wait", || waits_for_answer(waiter.id()).then_some(()));
    assert_eq!(through(&beside, "try").status().unwrap().code(), Some(7));
    // Says that it is busy, and cuts those off that use it.
    let _ = Command::new("umount").arg("--force").arg(mounted.point()).output().unwrap();
    assert!(!wait::until("the one that waits to end", || waiter.try_wait().unwrap()).success());
    wait::until("the lock", || through(&beside, "try").status().unwrap().success().then_some(()));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    run(Command::new("umount").arg("--lazy").arg(&beside)).success();
}

/// Locks of an open file (F_OFD_SETLK) stayed for ever: the kernel leaves it to the door to give them up with the file.
#[test]
fn locks_of_an_open_file_end_with_it() {
    let site = Site::new();
    let mounted = Mounted::start(&site, "");
    let file = mounted.point().join("locked");
    fs::write(&file, b"0123456789").unwrap();
    let script = "import fcntl, struct, sys\nf = open(sys.argv[1], 'r+b')\n\
        try:\n fcntl.fcntl(f, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 2, 5, 0))\nexcept BlockingIOError:\n sys.exit(7)\n\
        print('held', flush=True)\nsys.stdin.read()\n";
    let python = || {
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    };
    let mut holder = python().spawn().unwrap();
    let mut said = [0; 5];
    holder.stdout.take().unwrap().read_exact(&mut said).unwrap();
    let tried = || python().stdin(Stdio::null()).status().unwrap().code();
    assert_eq!(tried(), Some(7));
    assert_eq!(locking(&file, "try").status().unwrap().code(), Some(7), "nor can a process have it");
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    // The kernel tells the door of the end after it.
    wait::until("the lock", || (tried() == Some(0)).then_some(()));
    wait::until("the lock once more", || locking(&file, "try").status().unwrap().success().then_some(()));
}

/// Where the kernel writes back it sends the time with the size when a file is cut, and only owners set times: whoever else may write was refused (EPERM).
#[test]
fn who_may_write_may_cut() {
    let site = Site::new();
    let mounted = Mounted::start(&site, KEPT);
    let file = mounted.point().join("shared");
    fs::write(&file, b"0123456789").unwrap();
    chown(&file, Some(1000), Some(2000)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
    let script = "import os, sys\nos.utime('shared', (5, 5))\n\
        os.setgroups([2000])\nos.setgid(3000)\nos.setuid(3001)\n\
        os.truncate('shared', 6)\nfd = os.open('shared', os.O_RDWR)\nos.ftruncate(fd, 3)\nassert os.fstat(fd).st_size == 3\n\
        try:\n os.utime('shared', (7, 7))\n sys.exit('times are the owner\\'s')\nexcept PermissionError:\n pass\n";
    run(Command::new("python3").args(["-c", script]).current_dir(mounted.point())).success();
    assert_eq!(fs::read(&file).unwrap(), b"012");
    assert!(fs::metadata(&file).unwrap().mtime() > 7, "it was changed now");
    assert_eq!(s3(&mounted).read_range(b"shared", 0..3).unwrap(), b"012");
}

/// Set-group-id was taken from what belongs to a group that its owner is in, because the door looked at the owner's first group only.
#[test]
fn set_group_id_is_kept_by_who_is_in_the_group() {
    let site = Site::new();
    let mounted = Mounted::start(&site, KEPT);
    let (root, mode) = (mounted.point(), fs::Permissions::from_mode);
    fs::write(root.join("file"), b"").unwrap();
    fs::create_dir(root.join("dir")).unwrap();
    for name in ["file", "dir"] {
        chown(root.join(name), Some(1000), Some(2000)).unwrap();
        fs::set_permissions(root.join(name), mode(0o2770)).unwrap();
    }
    let script = "import os, stat, struct\n\
        os.umask(0)\nos.setgroups([2000])\nos.setgid(3000)\nos.setuid(1000)\n\
        entries = [(1, 7, 0xffffffff), (2, 4, 5), (4, 7, 0xffffffff), (16, 7, 0xffffffff), (32, 0, 0xffffffff)]\n\
        acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in entries)\n\
        os.setxattr('file', 'system.posix_acl_access', acl)\n\
        os.close(os.open('dir/opened', os.O_CREAT | os.O_WRONLY, 0o2775))\n\
        os.mknod('dir/made', stat.S_IFREG | 0o2775)\n";
    run(Command::new("python3").args(["-c", script]).current_dir(root)).success();
    for (name, mode) in [("file", 0o102_770), ("dir/opened", 0o102_775), ("dir/made", 0o102_775)] {
        let there = fs::metadata(root.join(name)).unwrap();
        assert_eq!((there.gid(), there.mode()), (2000, mode), "{name}: {:o}", there.mode());
    }
}

/// Without write-back an append was written where the kernel took the end to be: over what another mount had appended.
#[test]
fn appends_through_two_mounts_are_all_kept() {
    let site = Site::new();
    let beside = site.scratch("beside");
    let second = format!("{}/{BUCKET}={}", Site::TENANT, beside.display());
    let mounted = Mounted::start_with(&site, &format!("{KEPT},nowriteback"), &["--mount", &second]);
    let places = [mounted.point().join("log"), beside.join("log")];
    fs::write(&places[0], b"").unwrap();
    wait::until("the second mount", || fs::read(&places[1]).ok());
    let mut logs = places.each_ref().map(|place| File::options().append(true).open(place).unwrap());
    let mut expected = Vec::new();
    for number in 0..200 {
        let line = format!("line {number}\n").into_bytes();
        logs[number % 3 % 2].write_all(&line).unwrap();
        expected.extend(line);
    }
    drop(logs);
    assert_eq!(s3(&mounted).read_range(b"log", 0..expected.len() as u64).unwrap(), expected);
    for place in &places {
        wait::until("the kernel to forget what it had", || (fs::read(place).unwrap() == expected).then_some(()));
    }
    run(Command::new("umount").arg("--lazy").arg(&beside)).success();
}

/// `fstat` of a file that another door had deleted said ESTALE, though reading it went on.
#[test]
fn an_open_file_that_another_door_deletes_can_be_asked_about() {
    let site = Site::new();
    // The kernel asks each time.
    let mounted = Mounted::start(&site, "attr_timeout=0");
    let mut door = s3(&mounted);
    fs::write(mounted.point().join("file"), b"bytes").unwrap();
    let file = File::open(mounted.point().join("file")).unwrap();
    door.delete(&[b"file".to_vec()]).unwrap();
    let there = file.metadata().unwrap();
    assert_eq!((there.nlink(), there.len()), (0, 5));
}

#[test]
fn programs_work_in_it() {
    let site = Site::new();
    let mounted = Mounted::start(&site, "");
    let root = mounted.point();
    let source = site.scratch("source");
    tombolo_tests::tree::write(&source, 7, 60);
    fs::hard_link(source.join("hard"), source.join("hard-2")).unwrap_or_else(|_| {
        fs::write(source.join("hard"), b"two names").unwrap();
        fs::hard_link(source.join("hard"), source.join("hard-2")).unwrap();
    });
    symlink("hard", source.join("soft")).unwrap();
    File::create(source.join("sparse")).unwrap().set_len(50 << 20).unwrap();

    // tar keeps hard links, holes and times.
    let archive = site.scratch("archives").join("tree.tar");
    run(Command::new("tar").arg("--sparse").arg("-cf").arg(&archive).arg("-C").arg(&source).arg(".")).success();
    fs::create_dir(root.join("untarred")).unwrap();
    run(Command::new("tar").arg("-xpf").arg(&archive).arg("-C").arg(root.join("untarred"))).success();
    run(Command::new("tar").arg("--compare").arg("-f").arg(&archive).arg("-C").arg(root.join("untarred"))).success();
    tombolo_tests::tree::assert_same(&source, &root.join("untarred"));
    let (one, two) =
        (fs::metadata(root.join("untarred/hard")).unwrap(), fs::metadata(root.join("untarred/hard-2")).unwrap());
    assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    assert!(fs::metadata(root.join("untarred/sparse")).unwrap().blocks() < 100);

    // The second rsync has nothing to do. Both sides are here, as a temporary directory may have no access control lists.
    let python = |script: &str| run(Command::new("python3").args(["-c", script]).current_dir(root)).success();
    python(
        "import os, struct\n\
        entries = [(1, 6, 0xffffffff), (2, 4, 1234), (4, 4, 0xffffffff), (16, 6, 0xffffffff), (32, 0, 0xffffffff)]\n\
        acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in entries)\n\
        os.setxattr('untarred/hard', 'system.posix_acl_access', acl)\n\
        os.setxattr('untarred/level-0', 'system.posix_acl_default', acl)\n\
        os.setxattr('untarred/hard', 'user.origin', b'lab')\n",
    );
    let rsync = || {
        let mut command = Command::new(tool("rsync"));
        command.args(["-aHAX", "--itemize-changes"]).arg(root.join("untarred/")).arg(root.join("synced"));
        run(&mut command).success()
    };
    assert!(rsync().lines().count() > 60);
    assert_eq!(rsync(), "");
    tombolo_tests::tree::assert_same(&source, &root.join("synced"));
    python(
        "import os\n\
        kept = [('hard-2', 'system.posix_acl_access'), ('level-0', 'system.posix_acl_default'), ('hard-2', 'user.origin')]\n\
        for name, kind in kept:\n assert os.getxattr('synced/' + name, kind) == os.getxattr('untarred/' + name, kind), kind\n",
    );

    // git, through a clone and its packs.
    let git = |dir: &Path, args: &[&str]| {
        let mut command = Command::new(tool("git"));
        command.current_dir(dir).args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "gc.auto=0"]);
        run(command.args(args)).success()
    };
    git(&root.join("untarred"), &["init", "-q", "-b", "main"]);
    git(&root.join("untarred"), &["add", "-A"]);
    git(&root.join("untarred"), &["commit", "-q", "-m", "all of it"]);
    git(&root.join("untarred"), &["gc", "-q"]);
    git(root, &["clone", "-q", "untarred", "cloned"]);
    git(&root.join("cloned"), &["fsck", "--strict"]);
    assert_eq!(git(&root.join("cloned"), &["status", "--porcelain"]), "");

    // A compiler: many small files, mmap, rename over what is there, execution.
    let package = root.join("package");
    fs::create_dir_all(package.join("src")).unwrap();
    fs::write(
        package.join("Cargo.toml"),
        "[package]\nname = \"p\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n",
    )
    .unwrap();
    fs::write(package.join("src/main.rs"), "fn main() { println!(\"built\"); }\n").unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(&package).args(["run", "--quiet", "--offline"]).env("CARGO_TARGET_DIR", package.join("target"));
    assert_eq!(run(&mut build).success(), "built\n");
}

#[test]
fn sqlite_survives_the_death_of_the_server() {
    let site = Site::new();
    let mut mounted = Mounted::start(&site, "");
    let script = "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1])\ndb.execute('pragma synchronous=full')\n\
        db.execute('create table if not exists t (n integer primary key, x blob)')\ndb.commit()\n\
        n = db.execute('select coalesce(max(n), -1) from t').fetchone()[0]\n\
        while True:\n n += 1\n db.execute('insert into t values (?, randomblob(3000))', (n,))\n db.commit()\n print(n, flush=True)\n";
    let check = "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1])\n\
        assert db.execute('pragma integrity_check').fetchone()[0] == 'ok'\n\
        print(db.execute('select count(*), coalesce(max(n), -1) from t').fetchone())\n";
    let path = mounted.point().join("data.db");
    for cycle in 0..3 {
        let mut writer = Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(writer.stdout.take().unwrap()));
        let mut last = 0;
        for _ in 0..25 {
            last = lines.next().unwrap().unwrap().parse::<i64>().unwrap();
        }
        mounted.kill();
        while let Some(Ok(line)) = lines.next() {
            last = line.parse().unwrap();
        }
        // Its last commit may have been under way.
        let _ = writer.kill();
        writer.wait().unwrap();
        mounted.serve(&site);
        let found = run(Command::new("python3").args(["-c", check]).arg(&path)).success();
        let numbers: Vec<i64> = found.trim().trim_matches(['(', ')']).split(", ").map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers[0], numbers[1] + 1, "cycle {cycle}: none is missing between");
        assert!(numbers[1] >= last, "cycle {cycle}: {last} was committed, {} is the last", numbers[1]);
    }
}

/// The same program on this file system and on one of the kernel's own.
#[test]
fn access_control_lists_let_those_in_whom_they_do_on_linux() {
    let site = Site::new();
    let mounted = Mounted::start(&site, KEPT);
    // On a tmpfs, which has access control lists wherever Linux does.
    let reference = tempfile::tempdir_in("/dev/shm").unwrap();
    let script = repository().join("tests/clients/acl.py");
    let outcomes = |place: &Path| {
        fs::set_permissions(place, fs::Permissions::from_mode(0o777)).unwrap();
        run(Command::new("python3").arg(&script).arg(place)).success()
    };
    let (expected, found) = (outcomes(reference.path()), outcomes(mounted.point()));
    assert!(expected.contains("'EACCES'") && expected.lines().count() > 100, "{expected}");
    for (expected, found) in expected.lines().zip(found.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.lines().count(), expected.lines().count());
}
