//! `export`: a bucket, or a directory of one, into a local directory.
//!
//! Keys are hostile: a name is used only if it is one plain component, and directories are only entered if they are real
//! directories, so that no key and no stored symbolic link leads out of the target.

use super::attributes;
use super::draft::Draft;
use super::import::{blocking, key_name};
use super::link::{Links, Role, first};
use super::report::{Report, Tally};
use super::sink::Sink;
use crate::backend::{Backend, Piece};
use crate::verbs::Listing;
use crate::wire::{Frame, Item, Kind, Named, ObjectRecord, Operation, Raw, SummaryRecord, decode};
use bytes::Bytes;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tombolo_core::{BucketPath, Error, ErrorKind, Result, Subject};

const JOBS_AHEAD: usize = 256;
/// The longest file name of all systems that matter.
const NAME_BYTES_MAX: usize = 255;

/// What to export, and how.
pub(crate) struct ExportPlan {
    pub(crate) bucket: BucketPath,
    /// Empty or ending with `/`.
    pub(crate) prefix: Bytes,
    pub(crate) snapshot: Option<String>,
    pub(crate) to: PathBuf,
    /// Compare by content.
    pub(crate) by_content: bool,
    pub(crate) workers: usize,
}

/// Writes the tree; what goes wrong with single keys is in the report. Gives whether there was anything.
pub(crate) async fn export(backend: &Backend, plan: ExportPlan, report: Arc<Report>) -> Result<bool> {
    let to = plan.to.clone();
    let made = blocking(move || {
        std::fs::create_dir_all(&to)?;
        if !std::fs::metadata(&to)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Draft::sweep(&to);
        Ok(())
    });
    made.await.map_err(|e| Error::io(format!("'{}' cannot be made", plan.to.display()), e))?;
    let (give, take) = mpsc::channel(JOBS_AHEAD);
    let shared = Arc::new(Export {
        backend: backend.clone(),
        bucket: plan.bucket.to_string(),
        snapshot: plan.snapshot.clone(),
        by_content: plan.by_content,
        links: Links::new(),
        report,
    });
    let take = Arc::new(Mutex::new(take));
    let mut workers = JoinSet::new();
    for _ in 0..plan.workers {
        let (shared, take) = (shared.clone(), take.clone());
        workers.spawn(async move {
            loop {
                let job = take.lock().await.recv().await;
                match job {
                    Some(job) => shared.work(job).await,
                    None => break,
                }
            }
        });
    }
    let listed = shared.list(&plan, &give).await;
    drop(give);
    let broke = |e| Error::new(ErrorKind::Failed, "a worker of the export broke off; this is a bug").because(e);
    while let Some(result) = workers.join_next().await {
        result.map_err(broke)?;
    }
    listed
}

struct Export {
    backend: Backend,
    bucket: String,
    snapshot: Option<String>,
    by_content: bool,
    /// By node: where the first name was written.
    links: Links<String, PathBuf>,
    report: Arc<Report>,
}

/// A local directory under way. Its last holder finishes it.
struct Folder {
    path: PathBuf,
    key: Bytes,
    parent: Option<Arc<Folder>>,
    /// Whether it has attributes of its own, having been made by itself.
    is_explicit: AtomicBool,
}

enum Job {
    File(Arc<Folder>, PathBuf, SummaryRecord),
    Leave(Arc<Folder>),
}

enum Problem {
    Local(io::Error),
    Engine(Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Local(error)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem::Engine(error)
    }
}

impl Export {
    /// Lists the keys and hands out jobs.
    async fn list(&self, plan: &ExportPlan, jobs: &mpsc::Sender<Job>) -> Result<bool> {
        let root = Arc::new(Folder {
            path: plan.to.clone(),
            key: plan.prefix.clone(),
            parent: None,
            is_explicit: AtomicBool::new(false),
        });
        let mut stack = vec![root];
        let mut any = plan.prefix.is_empty();
        let mut listing =
            Listing::new(self.backend.clone(), &plan.bucket, plan.prefix.clone(), false, plan.snapshot.clone());
        'pages: while let Some(page) = listing.next().await? {
            for item in page.items {
                if self.report.is_stopped() {
                    break 'pages;
                }
                let Item::Object(summary) = item else {
                    continue;
                };
                any = true;
                if let Err(error) = self.place(&mut stack, summary.clone(), jobs).await {
                    self.report.failed_locally(&key_name(&self.bucket, &summary.key.0), &error);
                }
            }
        }
        while let Some(folder) = stack.pop() {
            self.hand_out(jobs, Job::Leave(folder)).await;
        }
        Ok(any)
    }

    async fn hand_out(&self, jobs: &mpsc::Sender<Job>, job: Job) {
        // Workers end only after the sender is gone.
        let _ = jobs.send(job).await;
    }

    /// Enters and leaves directories as the next key asks, and hands the key out.
    async fn place(
        &self,
        stack: &mut Vec<Arc<Folder>>,
        summary: SummaryRecord,
        jobs: &mpsc::Sender<Job>,
    ) -> io::Result<()> {
        let key = summary.key.0.clone();
        while stack.len() > 1 && stack.last().is_some_and(|folder| !key.starts_with(&folder.key)) {
            if let Some(folder) = stack.pop() {
                self.hand_out(jobs, Job::Leave(folder)).await;
            }
        }
        let Some(mut folder) = stack.last().cloned() else {
            return Ok(());
        };
        loop {
            let rest = key.get(folder.key.len()..).unwrap_or_default();
            let Some(slash) = rest.iter().position(|byte| *byte == b'/') else {
                break;
            };
            let name = file_name(rest.get(..slash).unwrap_or_default())?;
            let path = folder.path.join(name);
            let made = path.clone();
            blocking(move || make_folder(&made)).await?;
            let key = key.slice(..folder.key.len() + slash + 1);
            let below = Folder { path, key, parent: Some(folder), is_explicit: AtomicBool::new(false) };
            folder = Arc::new(below);
            stack.push(folder.clone());
        }
        let rest = key.get(folder.key.len()..).unwrap_or_default();
        if rest.is_empty() {
            folder.is_explicit.store(true, Ordering::Relaxed);
            self.report.count(Tally::Directories);
            return Ok(());
        }
        let path = folder.path.join(file_name(rest)?);
        self.hand_out(jobs, Job::File(folder, path, summary)).await;
        Ok(())
    }

    async fn work(&self, job: Job) {
        let folder = match job {
            Job::File(folder, path, summary) => {
                let name = key_name(&self.bucket, &summary.key.0);
                if !self.report.is_stopped() {
                    match self.file(&path, &summary).await {
                        Ok(()) => {}
                        Err(Problem::Local(error)) => self.report.failed_locally(&name, &error),
                        Err(Problem::Engine(error)) => self.report.failed(&name, &error),
                    }
                }
                folder
            }
            Job::Leave(folder) => folder,
        };
        self.release(folder).await;
    }

    async fn release(&self, folder: Arc<Folder>) {
        let mut next = Some(folder);
        while let Some(folder) = next.take().and_then(Arc::into_inner) {
            if folder.is_explicit.load(Ordering::Relaxed) && !self.report.is_stopped() {
                let name = key_name(&self.bucket, &folder.key);
                match self.finish(&folder).await {
                    Ok(()) => {}
                    Err(Problem::Local(error)) => self.report.failed_locally(&name, &error),
                    Err(Problem::Engine(error)) => self.report.failed(&name, &error),
                }
            }
            next = folder.parent;
        }
    }

    /// Gives a directory the attributes it is stored with.
    async fn finish(&self, folder: &Folder) -> Result<(), Problem> {
        let record = self.record(&Raw(folder.key.clone())).await?;
        let path = folder.path.clone();
        blocking(move || attributes::write(&path, Kind::Directory, &record.attributes, Some(record.modified_ns)))
            .await?;
        Ok(())
    }

    async fn record(&self, key: &Raw) -> Result<ObjectRecord> {
        match &self.snapshot {
            None => self.backend.call(Operation::Stat { bucket: self.bucket.clone(), path: key.clone() }).await,
            Some(_) => self.backend.call(Operation::Head { at: self.at(key), local: false }).await,
        }
    }

    fn at(&self, key: &Raw) -> Named {
        Named { bucket: self.bucket.clone(), key: key.clone(), version: None, snapshot: self.snapshot.clone() }
    }

    async fn file(&self, path: &Path, summary: &SummaryRecord) -> Result<(), Problem> {
        if self.is_there(path, summary).await? {
            let record = self.record(&summary.key).await?;
            if record.size == summary.size && record.modified_ns == summary.modified_ns {
                return self.settle(path, record).await;
            }
        }
        // Of a file with several names only the record comes, until it is known who brings the content.
        let record = match self.fetch(path, summary, true).await? {
            (_, true) => return Ok(()),
            (record, false) => record,
        };
        match self.links.join(record.node.clone(), u64::from(record.links)) {
            Role::First(tell) => {
                self.fetch(path, summary, false).await?;
                // Nobody may be waiting.
                tell.send_replace(Some(path.to_path_buf()));
                Ok(())
            }
            Role::Further(receiver) => {
                let Some(existing) = first(receiver).await else {
                    return Err(io::Error::other("another name of this file, exported first, failed").into());
                };
                let path = path.to_path_buf();
                blocking(move || hard_link(&existing, &path)).await?;
                self.report.count(Tally::Links);
                self.report.skip_bytes(summary.size);
                Ok(())
            }
        }
    }

    /// Whether the file is here already, by size and time or by content.
    async fn is_there(&self, path: &Path, summary: &SummaryRecord) -> Result<bool, Problem> {
        let probe = path.to_path_buf();
        let metadata = blocking(move || match std::fs::symlink_metadata(&probe) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .await?;
        let Some(metadata) = metadata else {
            return Ok(false);
        };
        let kind = attributes::kind(&metadata);
        let has_size = matches!(kind, Some(Kind::File | Kind::Symlink));
        if kind != Some(summary.file_type) || (has_size && metadata.len() != summary.size) {
            return Ok(false);
        }
        if !self.by_content || kind != Some(Kind::File) {
            return Ok(attributes::modified_ns(&metadata) == summary.modified_ns);
        }
        let path = path.to_path_buf();
        let here = blocking(move || {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(std::fs::File::open(&path)?)?;
            Ok(hasher.finalize().to_hex().to_string())
        });
        let there = self.backend.call::<String>(Operation::Digest { at: self.at(&summary.key) });
        let (there, here) = tokio::join!(there, here);
        Ok(there? == here?)
    }

    /// Brings a file that is here up to date in all but its content, and in which other names it has.
    async fn settle(&self, path: &Path, record: ObjectRecord) -> Result<(), Problem> {
        self.report.skip_bytes(record.size);
        self.report.count(Tally::Skipped);
        let role = (record.links > 1).then(|| self.links.join(record.node.clone(), u64::from(record.links)));
        match role {
            Some(Role::Further(receiver)) => {
                if let Some(existing) = first(receiver).await {
                    let path = path.to_path_buf();
                    blocking(move || hard_link(&existing, &path)).await?;
                }
            }
            role => {
                let (kind, target) = (record.file_type, path.to_path_buf());
                blocking(move || attributes::write(&target, kind, &record.attributes, Some(record.modified_ns)))
                    .await?;
                if let Some(Role::First(tell)) = role {
                    tell.send_replace(Some(path.to_path_buf()));
                }
            }
        }
        Ok(())
    }

    /// Writes a file under its name; with `unless_linked` not one that has several. Gives its record and whether it was
    /// written.
    async fn fetch(
        &self,
        path: &Path,
        summary: &SummaryRecord,
        unless_linked: bool,
    ) -> Result<(ObjectRecord, bool), Problem> {
        let operation = Operation::Get { at: self.at(&summary.key), unless_linked };
        let mut call = self.backend.begin(operation).await?;
        let odd = || Error::new(ErrorKind::Failed, "the answer begins without a record");
        let record: ObjectRecord = match call.next::<()>().await? {
            Piece::Frame(Frame::Record(json)) => decode(&json)?,
            _ => return Err(odd().into()),
        };
        if unless_linked && record.links > 1 {
            call.reply::<()>().await?;
            return Ok((record, false));
        }
        let target = path.to_path_buf();
        let (draft, tally) = if record.file_type == Kind::File {
            let beside = target.clone();
            let (draft, file) = blocking(move || Draft::create_file_beside(&beside, 0o666)).await?;
            let mut sink = Sink::write(file, record.size);
            while let Piece::Frame(frame) = call.next::<()>().await? {
                if !sink.send(frame).await {
                    break;
                }
            }
            sink.finish().await?;
            (draft, Tally::Files)
        } else {
            let mut content = Vec::new();
            while let Piece::Frame(frame) = call.next::<()>().await? {
                if let Frame::Data(data) = frame {
                    content.extend_from_slice(&data);
                    if content.len() > 4096 {
                        return Err(
                            io::Error::other("the target of the symbolic link is longer than 4096 bytes").into()
                        );
                    }
                }
            }
            let (kind, device, beside) = (record.file_type, record.attributes.rdev, target.clone());
            let draft = blocking(move || make_special(&beside, kind, device.unwrap_or(0), &content)).await?;
            (draft, if kind == Kind::Symlink { Tally::Symlinks } else { Tally::Special })
        };
        let (kind, stored, modified_ns) = (record.file_type, record.attributes.clone(), record.modified_ns);
        blocking(move || {
            attributes::write(draft.path(), kind, &stored, Some(modified_ns))?;
            draft.publish(&target)
        })
        .await?;
        self.report.count(tally);
        self.report.add_bytes(record.size);
        Ok((record, true))
    }
}

/// `name` as a file name, if it can be one.
fn file_name(name: &[u8]) -> io::Result<&OsStr> {
    let bad = match name {
        b"" => Some("an empty name"),
        b"." | b".." => Some("a name with a meaning of its own"),
        _ if name.contains(&0) => Some("a zero byte"),
        _ if name.len() > NAME_BYTES_MAX => Some("a name of more than 255 bytes"),
        _ => None,
    };
    match bad {
        None => Ok(OsStr::from_bytes(name)),
        Some(what) => {
            let text = format!("the key has {what}, which files can't have; fetch it with tombolo get");
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }
}

/// Makes a directory, or takes the one that is there; never follows a symbolic link.
fn make_folder(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = std::fs::symlink_metadata(path)?;
            if !metadata.is_dir() {
                let text = format!("{} is in the way: it is no directory", path.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
            }
            // An earlier run may have left it read-only, as it is stored; it will be again.
            if metadata.mode() & 0o700 != 0o700 {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(metadata.mode() & 0o7777 | 0o700))?;
            }
            Draft::sweep(path);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Makes `path` another name of the file `existing`.
fn hard_link(existing: &Path, path: &Path) -> io::Result<()> {
    let identity = |path: &Path| std::fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()));
    let target = identity(existing)?;
    if identity(path).is_ok_and(|there| there == target) {
        return Ok(());
    }
    let (draft, ()) = Draft::make(path, |draft| std::fs::hard_link(existing, draft))?;
    draft.publish(path)
}

fn make_special(beside: &Path, kind: Kind, device: u64, content: &[u8]) -> io::Result<Draft> {
    use rustix::fs::{CWD, FileType, Mode};
    let file_type = match kind {
        Kind::Symlink => {
            let target = OsStr::from_bytes(content);
            return Ok(Draft::make(beside, |path| std::os::unix::fs::symlink(target, path))?.0);
        }
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::File | Kind::Directory => return Err(io::ErrorKind::InvalidInput.into()),
    };
    #[cfg(target_os = "linux")]
    return Ok(Draft::make(beside, |path| {
        Ok(rustix::fs::mknodat(CWD, path, file_type, Mode::from_raw_mode(0o600), device)?)
    })?
    .0);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file_type, device, Mode::empty(), CWD);
        Err(io::Error::new(io::ErrorKind::Unsupported, "special files can't be made on this system"))
    }
}

/// An error that there is nothing to export.
pub(crate) fn nothing_there(bucket: &BucketPath, prefix: &[u8]) -> Error {
    Error::not_found(Subject::Key, format!("there is nothing below '{}'", key_name(&bucket.to_string(), prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_become_files() {
        for name in [&b""[..], b".", b"..", b"a\0b", &[b'x'; 256]] {
            assert!(file_name(name).is_err(), "{name:?}");
        }
        for name in [&b"a"[..], b"...", b".hidden", b"\xff", b"a b", &[b'x'; 255]] {
            assert!(file_name(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn a_symbolic_link_is_no_directory_to_enter() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        assert!(make_folder(&dir.path().join("link")).is_err());
        make_folder(&dir.path().join("real")).unwrap();
        make_folder(&dir.path().join("new")).unwrap();
    }

    #[test]
    fn special_files_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("f");
        for kind in [Kind::Fifo, Kind::Symlink] {
            let draft = make_special(&target, kind, 0, b"to").unwrap();
            let metadata = std::fs::symlink_metadata(draft.path()).unwrap();
            assert_eq!(attributes::kind(&metadata), Some(kind));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
