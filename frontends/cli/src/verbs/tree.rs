//! `import` and `export`

use super::{Session, place};
use crate::arguments::{ExportArgs, ImportArgs};
use crate::failure::Outcome;
use crate::progress::Progress;
use crate::tree::{self, ExportPlan, ImportPlan, Report};
use crate::wire::{BucketRecord, Operation};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use tombolo_core::{Error, Subject};

pub(super) async fn import(session: &mut Session, args: ImportArgs) -> Outcome {
    let (bucket, prefix) = place(&args.path)?.bucket_and_directory()?;
    let from = args.from.display();
    match std::fs::metadata(&args.from) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            return Err(Error::invalid(format!("'{from}' is no directory; store a file with: tombolo put")).into());
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::not_found(Subject::Other, format!("there is no directory '{from}'")).into());
        }
        Err(error) => return Err(Error::io(format!("'{from}' cannot be read"), error).into()),
    }
    let progress = Progress::start(session.output.is_json(), None);
    if progress.is_shown() {
        // Counts while the import is under way already; the bar becomes one when the total is known.
        let (bar, root) = (progress.clone(), args.from.clone());
        tokio::task::spawn_blocking(move || bar.set_total(tree::bytes_below(&root)));
    }
    let report = Arc::new(Report::new(progress, session.output.is_json()));
    let plan = ImportPlan {
        from: args.from,
        bucket,
        prefix,
        by_content: args.checksum,
        one_file_system: args.one_file_system,
        workers: usize::from(args.jobs),
        except: std::fs::metadata(&session.dir).ok().map(|metadata| (metadata.dev(), metadata.ino())),
    };
    // A bucket that is not there is one error, not one for each file.
    session.call::<BucketRecord>(Operation::Bucket { bucket: plan.bucket.to_string() }).await?;
    tree::import(&session.backend, plan, report.clone()).await?;
    report.finish(&mut session.output, "Imported")
}

pub(super) async fn export(session: &mut Session, args: ExportArgs) -> Outcome {
    let (bucket, prefix) = place(&args.path)?.bucket_and_directory()?;
    let record: BucketRecord = session.call(Operation::Bucket { bucket: bucket.to_string() }).await?;
    let is_all = prefix.is_empty() && args.snapshot.is_none();
    let total = record.usage.filter(|_| is_all).map(|usage| usage.logical_bytes);
    let report = Arc::new(Report::new(Progress::start(session.output.is_json(), total), session.output.is_json()));
    let plan = ExportPlan {
        bucket: bucket.clone(),
        prefix: prefix.clone(),
        snapshot: args.snapshot,
        to: args.to,
        by_content: args.checksum,
        workers: usize::from(args.jobs),
    };
    if !tree::export(&session.backend, plan, report.clone()).await? {
        return Err(tree::nothing_there(&bucket, &prefix).into());
    }
    report.finish(&mut session.output, "Exported")
}
