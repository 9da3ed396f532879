//! The verbs, a file for each noun.

mod catalog;
mod conflicts;
mod copy;
mod directory;
mod init;
mod link;
mod list;
mod maintenance;
mod mount;
mod pins;
mod remove;
mod show;
mod snapshot;
mod sync;
mod transfer;
mod tree;
mod user;
mod verify;

use crate::arguments::{AfterArgs, Cli, Verb};
use crate::backend::{Backend, Call, Piece};
use crate::failure::Outcome;
use crate::output::Output;
use crate::path::Place;
use crate::wire::{Kind, Named, ObjectRecord, Operation, Page, Raw};
use bytes::Bytes;
use clap::CommandFactory;
use std::ffi::OsStr;
use std::path::PathBuf;
use tombolo_core::{BucketPath, Error, ErrorKind, ObjectPath, Result};

/// What a verb works with: a segment, and somewhere to print.
pub(crate) struct Session {
    pub(crate) backend: Backend,
    pub(crate) output: Output,
    /// The data directory.
    pub(crate) dir: PathBuf,
}

/// Runs a command line.
pub(crate) async fn run(cli: Cli) -> Outcome {
    let mut output = Output::new(cli.json);
    let dir = cli.dir.ok_or_else(|| Error::invalid("no data directory: give --dir DIR or set TOMBOLO_DIR"));
    match cli.verb {
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tombolo", &mut script);
            output.line(script.trim_ascii_end())?;
            output.flush()
        }
        Verb::Init(args) => init::init(&mut output, &dir?, args).await,
        Verb::Serve(args) => crate::serve::serve(&mut output, &dir?, args).await,
        Verb::Mount(args) => mount::mount(&mut output, &dir?, args).await,
        // Its two segments are in directories of their own.
        Verb::Demo(args) => crate::demo::demo(&mut output, dir.ok().as_deref(), args).await,
        Verb::Umount { point } => mount::unmount(&mut output, &point).await,
        verb => {
            let dir = dir?;
            let backend = Backend::open(&dir).await?;
            let mut session = Session { backend, output, dir };
            let outcome = session.run(verb).await;
            let closed = session.backend.close().await;
            let flushed = session.output.flush();
            outcome?;
            closed?;
            flushed
        }
    }
}

impl Session {
    async fn run(&mut self, verb: Verb) -> Outcome {
        match verb {
            // These have no segment yet; `run` took them.
            Verb::Completions { .. }
            | Verb::Init(_)
            | Verb::Serve(_)
            | Verb::Mount(_)
            | Verb::Umount { .. }
            | Verb::Demo(_) => Ok(()),
            Verb::Cluster(verb) => catalog::cluster(self, verb).await,
            Verb::Tenant(verb) => catalog::tenant(self, verb).await,
            Verb::Bucket(verb) => catalog::bucket(self, verb).await,
            Verb::User(verb) => user::user(self, verb).await,
            Verb::Put(args) => transfer::put(self, args).await,
            Verb::Get(args) => transfer::get(self, args).await,
            Verb::Ls(args) => list::list(self, args).await,
            Verb::Stat(args) => show::stat(self, args).await,
            Verb::Rm(args) => remove::remove(self, args).await,
            Verb::Cp(args) => copy::copy(self, args).await,
            Verb::Mv(args) => copy::rename(self, args).await,
            Verb::Mkdir(args) => directory::make(self, args).await,
            Verb::Versions(args) => show::versions(self, args).await,
            Verb::Import(args) => tree::import(self, args).await,
            Verb::Export(args) => tree::export(self, args).await,
            Verb::Snapshot(verb) => snapshot::snapshot(self, verb).await,
            Verb::Link(verb) => link::link(self, verb).await,
            Verb::Sync(verb) => sync::sync(self, verb).await,
            Verb::Status(args) => maintenance::status(self, args).await,
            Verb::Scrub(args) => maintenance::scrub(self, args).await,
            Verb::Gc(args) => maintenance::gc(self, args).await,
        }
    }

    async fn call<R: serde::de::DeserializeOwned>(&self, operation: Operation) -> Result<R> {
        self.backend.call(operation).await
    }

    async fn begin(&self, operation: Operation) -> Result<Call> {
        self.backend.begin(operation).await
    }

    /// Waits until this segment has what a token of the place's bucket stands for; does nothing without one.
    async fn after(&self, place: &Place, args: &AfterArgs) -> Result<()> {
        let Some(token) = args.after.clone() else { return Ok(()) };
        let (bucket, _) = place.clone().bucket_and_key()?;
        let timeout_ms = u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX);
        self.call(Operation::Await { bucket: bucket.to_string(), token, timeout_ms }).await
    }

    /// Refuses to make an object that would have the name of a directory.
    async fn refuse_directory(&self, target: &ObjectPath) -> Result<()> {
        let (bucket, path) = (target.bucket.to_string(), Raw(target.key.clone()));
        match self.call::<ObjectRecord>(Operation::Stat { bucket, path }).await {
            Ok(record) if record.file_type == Kind::Directory && !target.key.ends_with(b"/") => {
                let next = format!("what goes into it is written with a slash at the end: '{target}/'");
                Err(Error::invalid(format!("'{target}' is a directory; {next}")))
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn listing(&self, bucket: &BucketPath, prefix: Bytes, delimiter: bool, snapshot: Option<String>) -> Listing {
        Listing::new(self.backend.clone(), bucket, prefix, delimiter, snapshot)
    }
}

/// A listing, page by page.
pub(crate) struct Listing {
    backend: Backend,
    bucket: String,
    prefix: Raw,
    delimiter: bool,
    snapshot: Option<String>,
    after: Option<Raw>,
    is_over: bool,
    /// Also how much of each object's data is here.
    local: bool,
    /// Also names that are away.
    away: bool,
}

impl Listing {
    pub(crate) fn new(
        backend: Backend,
        bucket: &BucketPath,
        prefix: Bytes,
        delimiter: bool,
        snapshot: Option<String>,
    ) -> Listing {
        let (bucket, prefix) = (bucket.to_string(), Raw(prefix));
        Listing { backend, bucket, prefix, delimiter, snapshot, after: None, is_over: false, local: false, away: false }
    }

    /// The next page; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Page>> {
        if self.is_over {
            return Ok(None);
        }
        let page: Page = self
            .backend
            .call(Operation::List {
                bucket: self.bucket.clone(),
                prefix: self.prefix.clone(),
                delimiter: self.delimiter,
                after: self.after.take(),
                snapshot: self.snapshot.clone(),
                local: self.local,
                away: self.away,
            })
            .await?;
        self.is_over = page.next.is_none();
        self.after = page.next.clone();
        Ok(Some(page))
    }
}

fn place(argument: &OsStr) -> Result<Place> {
    Place::from_argument(argument)
}

fn named(bucket: &BucketPath, key: &Bytes) -> Named {
    Named { bucket: bucket.to_string(), key: Raw(key.clone()), version: None, snapshot: None }
}

/// Waits for an operation that only answers, showing its progress.
async fn with_progress<R: serde::de::DeserializeOwned>(
    mut call: Call,
    progress: &crate::progress::Progress,
) -> Result<R> {
    loop {
        match call.next().await? {
            Piece::Frame(crate::wire::Frame::Progress(done, total)) => {
                progress.set_total(total);
                progress.set(done);
            }
            Piece::Frame(_) => {}
            Piece::Reply(reply) => return Ok(reply),
        }
    }
}
