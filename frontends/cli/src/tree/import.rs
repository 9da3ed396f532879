//! `import`: a directory tree into a bucket.

use super::attributes;
use super::link::{Links, Role, first};
use super::report::{Report, Tally};
use super::source::{PIECE_BYTES, Source};
use super::walk::{Directory, Job, Made, Walk};
use crate::backend::Backend;
use crate::path::show;
use crate::wire::{AttributesRecord, Frame, Kind, Named, ObjectRecord, Operation, PutRequest, Raw};
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tombolo_core::{BucketPath, Error, ErrorKind, Result, Subject};

/// Jobs that wait for a worker.
const JOBS_AHEAD: usize = 256;

/// What to import, and how.
pub(crate) struct ImportPlan {
    pub(crate) from: PathBuf,
    pub(crate) bucket: BucketPath,
    /// Empty or ending with `/`.
    pub(crate) prefix: Bytes,
    /// Compare by content.
    pub(crate) by_content: bool,
    pub(crate) one_file_system: bool,
    pub(crate) workers: usize,
    /// The data directory, which is never imported into itself.
    pub(crate) except: Option<(u64, u64)>,
}

/// Brings the tree in; what goes wrong with single files is in the report.
pub(crate) async fn import(backend: &Backend, plan: ImportPlan, report: Arc<Report>) -> Result<()> {
    make_prefix(backend, &plan).await?;
    let (give, take) = mpsc::channel(JOBS_AHEAD);
    let walk = Walk {
        root: plan.from.clone(),
        key: plan.prefix.to_vec(),
        one_file_system: plan.one_file_system,
        except: plan.except,
    };
    let walk_report = report.clone();
    let walker = tokio::task::spawn_blocking(move || walk.run(&give, &walk_report));
    let shared = Arc::new(Import {
        backend: backend.clone(),
        bucket: plan.bucket.to_string(),
        by_content: plan.by_content,
        links: Links::new(),
        owners: parking_lot::Mutex::default(),
        report,
    });
    let take = Arc::new(Mutex::new(take));
    let mut workers = JoinSet::new();
    for _ in 0..plan.workers {
        let (shared, take) = (shared.clone(), take.clone());
        workers.spawn(async move {
            loop {
                // One at a time takes a job, so that they are begun in the order of the walk.
                let job = take.lock().await.recv().await;
                match job {
                    Some(job) => shared.work(job).await,
                    None => break,
                }
            }
        });
    }
    let broke = |e| Error::new(ErrorKind::Failed, "a worker of the import broke off; this is a bug").because(e);
    while let Some(result) = workers.join_next().await {
        result.map_err(broke)?;
    }
    walker.await.map_err(broke)
}

/// Makes the directories above the target.
async fn make_prefix(backend: &Backend, plan: &ImportPlan) -> Result<()> {
    let prefix = plan.prefix.strip_suffix(b"/").unwrap_or_default();
    for (at, _) in prefix.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
        let path = Raw(plan.prefix.slice(..=at));
        let (bucket, attributes) = (plan.bucket.to_string(), AttributesRecord::default());
        backend.call::<bool>(Operation::MakeDirectory { bucket, path, attributes }).await?;
    }
    Ok(())
}

struct Import {
    backend: Backend,
    bucket: String,
    by_content: bool,
    /// By device and inode: the key that has the content, and its node.
    links: Links<(u64, u64), (Raw, String)>,
    /// Stored nodes of several names, by the local file that came upon them first.
    owners: parking_lot::Mutex<HashMap<String, (u64, u64)>>,
    report: Arc<Report>,
}

/// Why a file was not imported.
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

/// A file's content, ready to be sent.
enum Content {
    /// All of it.
    Whole(Bytes),
    /// More than fits one piece, or with holes.
    Long(File),
}

/// What is known of a local file before it is stored.
struct Local {
    kind: Kind,
    metadata: Metadata,
    attributes: AttributesRecord,
}

impl Import {
    async fn work(&self, job: Job) {
        let directory = match job {
            Job::Make(directory) => {
                self.make(&directory).await;
                directory
            }
            Job::File(directory, path, key) => {
                let made = directory.ready().await;
                if !self.report.is_stopped() && made != Made::Failed {
                    match self.file(&path, Raw(key.into()), made).await {
                        Ok(()) => {}
                        Err(Problem::Local(error)) => {
                            self.report.failed_locally(&path.display().to_string(), &error);
                        }
                        Err(Problem::Engine(error)) => self.report.failed(&path.display().to_string(), &error),
                    }
                }
                directory
            }
            Job::Leave(directory) => directory,
        };
        self.release(directory).await;
    }

    async fn make(&self, directory: &Directory) {
        let made = match &directory.parent {
            Some(parent) if parent.ready().await == Made::Failed => Made::Failed,
            _ => match self.make_directory(directory).await {
                Ok(true) => Made::New,
                Ok(false) => Made::Existing,
                Err(Problem::Local(error)) => {
                    self.report.failed_locally(&directory.path.display().to_string(), &error);
                    Made::Failed
                }
                Err(Problem::Engine(error)) => {
                    self.report.failed(&directory.path.display().to_string(), &error);
                    Made::Failed
                }
            },
        };
        directory.made.send_replace(made);
    }

    async fn make_directory(&self, directory: &Directory) -> Result<bool, Problem> {
        let path = directory.path.clone();
        let (attributes, modified_ns) = blocking(move || {
            // The root may be a symbolic link to the directory that is meant.
            let metadata = std::fs::metadata(&path)?;
            Ok((attributes::read(&path, &metadata)?, attributes::modified_ns(&metadata)))
        })
        .await?;
        if directory.key.is_empty() {
            // The bucket's own root: its attributes are the bucket's affair.
            return Ok(false);
        }
        let operation = Operation::MakeDirectory {
            bucket: self.bucket.clone(),
            path: Raw(Bytes::copy_from_slice(&directory.key)),
            attributes: attributes.clone(),
        };
        let is_new = self.backend.call(operation).await?;
        *directory.finish.lock() = Some((attributes, modified_ns));
        self.report.count(Tally::Directories);
        Ok(is_new)
    }

    /// Lets go of a directory; the last to do so sets its attributes and time, and lets go of its parent.
    async fn release(&self, directory: Arc<Directory>) {
        let mut next = Some(directory);
        while let Some(directory) = next.take().and_then(Arc::into_inner) {
            let finish = directory.finish.into_inner();
            if let Some((attributes, modified_ns)) = finish
                && !self.report.is_stopped()
            {
                let operation = Operation::SetAttributes {
                    bucket: self.bucket.clone(),
                    path: Raw(directory.key.into()),
                    attributes,
                    modified_ns: Some(modified_ns),
                };
                if let Err(error) = self.backend.call::<()>(operation).await {
                    self.report.failed(&directory.path.display().to_string(), &error);
                }
            }
            next = directory.parent;
        }
    }

    async fn file(&self, path: &Path, key: Raw, made: Made) -> Result<(), Problem> {
        tombolo_core::check_key(&key.0)?;
        let local = inspect(path).await?;
        if local.metadata.nlink() > 1 {
            match self.links.join((local.metadata.dev(), local.metadata.ino()), local.metadata.nlink()) {
                Role::First(tell) => {
                    let node = self.content(path, &key, local, made).await?;
                    // Nobody may be waiting.
                    tell.send_replace(Some((key, node)));
                    Ok(())
                }
                Role::Further(first) => self.link(first, key).await,
            }
        } else {
            self.content(path, &key, local, made).await.map(drop)
        }
    }

    /// Gives a file that is stored already, or about to be, a further name.
    async fn link(&self, receiver: watch::Receiver<Option<(Raw, String)>>, to: Raw) -> Result<(), Problem> {
        let Some((existing, node)) = first(receiver).await else {
            return Err(io::Error::other("another name of this file, imported first, failed").into());
        };
        let link = |replaces| {
            let bucket = self.bucket.clone();
            let operation = Operation::Link { bucket, existing: existing.clone(), to: to.clone(), replaces };
            self.backend.call::<()>(operation)
        };
        match link(false).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Exists => {
                if self.stat(&to).await?.is_some_and(|record| record.node == node) {
                    self.report.count(Tally::Skipped);
                    return Ok(());
                }
                link(true).await?;
            }
            Err(error) => return Err(error.into()),
        }
        self.report.count(Tally::Links);
        Ok(())
    }

    async fn stat(&self, key: &Raw) -> Result<Option<ObjectRecord>> {
        let operation = Operation::Stat { bucket: self.bucket.clone(), path: key.clone() };
        match self.backend.call(operation).await {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.kind() == ErrorKind::NotFound && error.subject() == Subject::Key => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores a file unless it is there; gives the node it has.
    async fn content(&self, path: &Path, key: &Raw, local: Local, made: Made) -> Result<String, Problem> {
        if made == Made::Existing
            && let Some(stored) = self.stat(key).await?
            && self.is_its_own(&stored, &local.metadata)
            && self.is_there(path, &stored, &local).await?
        {
            self.settle(key, &stored, &local).await?;
            self.report.count(Tally::Skipped);
            self.report.skip_bytes(local.metadata.len());
            return Ok(stored.node);
        }
        let (content, local) = open_content(path, local).await?;
        let request = PutRequest {
            bucket: self.bucket.clone(),
            key: key.clone(),
            file_type: local.kind,
            attributes: Some(local.attributes),
            modified_ns: Some(attributes::modified_ns(&local.metadata)),
            // Other names of what is stored may be other files here.
            unlinks: true,
            ..PutRequest::default()
        };
        let mut call = self.backend.begin(Operation::Put(Box::new(request))).await?;
        let record: ObjectRecord = match content {
            Content::Whole(bytes) => {
                if !bytes.is_empty() {
                    call.send(Frame::Data(bytes)).await;
                }
                call.send(Frame::End).await;
                call.reply().await?
            }
            Content::Long(file) => {
                let watched = file.try_clone()?;
                let mut source = Source::read(file);
                let mut is_taken = true;
                while let Some(frame) = source.next().await {
                    is_taken = call.send(frame?).await;
                    if !is_taken {
                        break;
                    }
                }
                if is_taken {
                    // Before the end is sent nothing is stored.
                    let before = local.metadata;
                    blocking(move || unchanged(&before, &watched.metadata()?)).await?;
                    call.send(Frame::End).await;
                }
                call.reply().await?
            }
        };
        self.report.count(match record.file_type {
            Kind::File => Tally::Files,
            Kind::Symlink => Tally::Symlinks,
            _ => Tally::Special,
        });
        self.report.add_bytes(record.size);
        Ok(record.node)
    }

    /// Whether all names of a stored file can be names of this one: it has as many, and no other file has come upon them.
    fn is_its_own(&self, stored: &ObjectRecord, local: &Metadata) -> bool {
        if stored.links <= 1 || stored.file_type == Kind::Directory {
            return true;
        }
        let identity = (local.dev(), local.ino());
        u64::from(stored.links) <= local.nlink()
            && *self.owners.lock().entry(stored.node.clone()).or_insert(identity) == identity
    }

    /// Whether what is stored under the key is this file.
    async fn is_there(&self, path: &Path, stored: &ObjectRecord, local: &Local) -> Result<bool, Problem> {
        let size = if local.kind == Kind::File || local.kind == Kind::Symlink { local.metadata.len() } else { 0 };
        if stored.file_type != local.kind || stored.size != size {
            return Ok(false);
        }
        if !self.by_content || local.kind != Kind::File {
            return Ok(stored.modified_ns == attributes::modified_ns(&local.metadata));
        }
        let at = Named { bucket: self.bucket.clone(), key: stored.key.clone(), version: None, snapshot: None };
        let path = path.to_path_buf();
        let (there, here) =
            tokio::join!(self.backend.call::<String>(Operation::Digest { at }), blocking(move || digest(&path)));
        Ok(there? == here?)
    }

    /// Brings attributes and time of a file that is there up to date.
    async fn settle(&self, key: &Raw, stored: &ObjectRecord, local: &Local) -> Result<()> {
        let modified_ns = attributes::modified_ns(&local.metadata);
        if attributes::is_same(&stored.attributes, &local.attributes) && stored.modified_ns == modified_ns {
            return Ok(());
        }
        let operation = Operation::SetAttributes {
            bucket: self.bucket.clone(),
            path: key.clone(),
            attributes: local.attributes.clone(),
            modified_ns: Some(modified_ns),
        };
        self.backend.call(operation).await
    }
}

async fn inspect(path: &Path) -> io::Result<Local> {
    let path = path.to_path_buf();
    blocking(move || {
        let metadata = std::fs::symlink_metadata(&path)?;
        let kind = attributes::kind(&metadata)
            .ok_or_else(|| io::Error::other("neither a file nor anything else that is known here"))?;
        let attributes = attributes::read(&path, &metadata)?;
        Ok(Local { kind, metadata, attributes })
    })
    .await
}

async fn open_content(path: &Path, mut local: Local) -> io::Result<(Content, Local)> {
    let path = path.to_path_buf();
    blocking(move || {
        let content = match local.kind {
            Kind::File => {
                // It may have been replaced by something that must not be followed or waited for.
                let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
                let flags = i32::try_from(flags.bits()).unwrap_or(0);
                let mut file = File::options().read(true).custom_flags(flags).open(&path)?;
                let opened = file.metadata()?;
                if attributes::kind(&opened) != Some(Kind::File) {
                    return Err(changed());
                }
                local.metadata = opened;
                let size = local.metadata.len();
                let has_holes = local.metadata.blocks().saturating_mul(512) < size;
                if size > PIECE_BYTES as u64 || has_holes {
                    Content::Long(file)
                } else {
                    let mut bytes = Vec::with_capacity(PIECE_BYTES.min(size as usize + 1));
                    file.by_ref().take(size).read_to_end(&mut bytes)?;
                    unchanged(&local.metadata, &file.metadata()?)?;
                    Content::Whole(bytes.into())
                }
            }
            Kind::Symlink => {
                let target = std::fs::read_link(&path)?;
                Content::Whole(Bytes::copy_from_slice(target.as_os_str().as_bytes()))
            }
            _ => Content::Whole(Bytes::new()),
        };
        Ok((content, local))
    })
    .await
}

fn unchanged(before: &Metadata, after: &Metadata) -> io::Result<()> {
    let state = |metadata: &Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    if state(before) == state(after) { Ok(()) } else { Err(changed()) }
}

fn changed() -> io::Error {
    io::Error::other("changed while it was read; import it again when it is at rest")
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// A path for messages about a key.
pub(super) fn key_name(bucket: &str, key: &[u8]) -> String {
    format!("{bucket}/{}", show(key))
}
