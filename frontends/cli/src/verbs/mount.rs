//! `mount` and `umount`

use crate::arguments::{MountArgs, ServeArgs};
use crate::backend::Backend;
use crate::control::Client;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::wire::{Operation, Raw, Refusal};
use bytes::Bytes;
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tombolo_core::{Error, ErrorKind, Result, Segment, Subject};

/// Where a daemon in the background writes its log, in the data directory.
const LOG_NAME: &str = "mount.log";

pub(super) async fn mount(output: &mut Output, dir: &Path, args: MountArgs) -> Outcome {
    let (path, point) = places(&args.places)?;
    let options = args.options.join(",");
    // A daemon's directory is its own; and what a dead one left there can't be resolved any further.
    let point = std::path::absolute(&point)
        .map_err(|error| Error::io(format!("the mount point {} can't be used", point.display()), error))?;
    loop {
        if let Some(client) = Client::connect(dir).await? {
            let point_bytes = Raw(Bytes::copy_from_slice(point.as_os_str().as_bytes()));
            let operation = Operation::Mount { path: path.clone(), point: point_bytes, options: options.clone() };
            Backend::Daemon(Arc::new(client)).call::<()>(operation).await?;
            return said(output, &path, &point);
        }
        if !Segment::exists(dir) {
            return Err(Error::not_found(Subject::Segment, format!("there is no segment in {}", dir.display())).into());
        }
        if args.background {
            return in_background(output, dir, &path, &point, &options);
        }
        let mount = vec![(path.clone(), point.clone())];
        let serve = ServeArgs { mount, mount_options: options.clone(), ..ServeArgs::defaults() };
        match crate::serve::serve(output, dir, Box::new(serve)).await {
            // Another one that was started with it, as at boot, is the daemon now.
            Err(Failure::Engine(error))
                if (error.kind(), error.subject()) == (ErrorKind::Busy, Subject::Segment)
                    && Client::connect(dir).await?.is_some() => {}
            served => return served,
        }
    }
}

/// `[PATH] POINT`
fn places(places: &[OsString]) -> Result<(String, PathBuf)> {
    match places {
        [point] => Ok((String::new(), point.into())),
        [path, point] => match path.to_str() {
            Some(path) => Ok((path.to_owned(), point.into())),
            None => Err(Error::invalid("what is mounted is named in UTF-8")),
        },
        _ => Err(Error::invalid("mount takes [PATH] POINT")),
    }
}

fn said(output: &mut Output, path: &str, point: &Path) -> Outcome {
    let point = point.display().to_string();
    let what = if path.is_empty() { "everything" } else { path };
    output.answer(json!({ "path": path, "point": point }), &format!("Mounted {what} on {point}"))?;
    output.flush()
}

/// Starts this program again as a daemon of its own, and waits until that has mounted.
fn in_background(output: &mut Output, dir: &Path, path: &str, point: &Path, options: &str) -> Outcome {
    let failed = |error| Error::io("the daemon can't be started", error);
    let own = std::env::current_exe().map_err(failed)?;
    let mut daemon = Command::new(own);
    daemon.arg("--json").arg("--dir").arg(dir).arg("mount");
    if !options.is_empty() {
        daemon.arg("-o").arg(options);
    }
    daemon.arg("--").arg(if path.is_empty() { "/" } else { path }).arg(point);
    // A group of its own: it outlives the terminal's signals. What it has to say goes to a log of its own, as nobody may wait at the other end.
    let log = dir.join(LOG_NAME);
    let errors = File::options().create(true).append(true).open(&log).map_err(failed)?;
    let known = errors.metadata().map_err(failed)?.len();
    daemon.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).process_group(0);
    let mut daemon = daemon.spawn().map_err(failed)?;
    let mut line = String::new();
    if let Some(stdout) = daemon.stdout.take() {
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).map_err(failed)?;
    }
    if line.is_empty() {
        let status = daemon.wait().map_err(failed)?;
        let mut file = File::open(&log).map_err(failed)?;
        file.seek(SeekFrom::Start(known)).map_err(failed)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        return Err(Failure::Engine(last_error(&text).unwrap_or_else(|| {
            let message = format!("the daemon ended with {status}; see {}", log.display());
            Error::new(ErrorKind::Failed, message)
        })));
    }
    said(output, path, point)
}

/// The error that a command with `--json` ended with, if its log says so.
fn last_error(log: &[u8]) -> Option<Error> {
    #[derive(serde::Deserialize)]
    struct Line {
        error: Refusal,
    }
    let lines = log.split(|byte| *byte == b'\n').rev();
    lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok()).map(|line| line.error.into()).next()
}

pub(super) async fn unmount(output: &mut Output, point: &Path) -> Outcome {
    check_own(point)?;
    tombolo_fuse::unmount(point)?;
    let point = point.display().to_string();
    output.answer(json!({ "point": point }), &format!("Unmounted {point}"))?;
    output.flush()
}

/// Refuses what is none of Tombolo's: what is busy would be detached all the same.
fn check_own(point: &Path) -> Result<()> {
    let mounts = std::fs::read("/proc/self/mountinfo").map_err(|e| Error::io("the list of mounts can't be read", e))?;
    match kind_on(&mounts, resolved(point).as_os_str()) {
        None => Err(Error::not_found(Subject::Other, format!("nothing is mounted on {}", point.display()))),
        Some(kind) if kind == b"fuse" || kind.starts_with(b"fuse.") => Ok(()),
        Some(kind) => {
            let kind = String::from_utf8_lossy(kind).into_owned();
            let message = format!("what is mounted on {} is {kind}, not FUSE; unmount it with umount", point.display());
            Err(Error::new(ErrorKind::Failed, message))
        }
    }
}

/// `point` as the system lists it. What is mounted there is not looked at: it may be dead.
fn resolved(point: &Path) -> PathBuf {
    let absolute = std::path::absolute(point).unwrap_or_else(|_| point.to_owned());
    match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => absolute.canonicalize().unwrap_or(absolute),
    }
}

/// The type of the file system that is on top on `point`, by what proc(5) calls mountinfo.
fn kind_on<'a>(mounts: &'a [u8], point: &OsStr) -> Option<&'a [u8]> {
    let kind = |line: &'a [u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let is_there = unescaped(fields.nth(4)?) == point.as_bytes();
        fields.by_ref().find(|field| *field == b"-")?;
        fields.next().filter(|_| is_there)
    };
    mounts.split(|byte| *byte == b'\n').filter_map(kind).next_back()
}

/// Blanks and the like are three octal digits behind a backslash.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_top_is_found() {
        let mounts = b"22 1 0:20 / / rw shared:1 - ext4 /dev/sda1 rw\n\
            30 22 0:30 / /mnt/a\\040b rw,nosuid shared:7 master:2 - tmpfs tmpfs rw\n\
            31 30 0:31 / /mnt/a\\040b rw,nosuid - fuse.lab tombolo rw,user_id=0\n";
        let kind = |point: &str| kind_on(mounts, OsStr::new(point)).map(String::from_utf8_lossy);
        assert_eq!(kind("/").unwrap(), "ext4");
        assert_eq!(kind("/mnt/a b").unwrap(), "fuse.lab");
        assert_eq!(kind("/mnt"), None);
        assert_eq!(unescaped(b"a\\134\\9\\04"), b"a\\\\9\\04");
    }

    /// `umount` used to detach whatever was mounted, busy or not.
    #[test]
    fn only_fuse_is_unmounted() {
        assert_eq!(check_own(Path::new("/proc")).unwrap_err().kind(), ErrorKind::Failed);
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_own(dir.path()).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
