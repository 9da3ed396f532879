//! Time to open a store after its process was killed: it must follow from recent writes, not from what is stored.

use crate::figure::{header, row};
use crate::source::{PIECE_BYTES, Source};
use crate::{Failure, store};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use tombolo_core::PutOptions;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Small objects.
    #[arg(long, default_value_t = 200_000)]
    objects: u64,
    /// Large contents beside them, in MiB.
    #[arg(long, default_value_t = 512)]
    mib: u64,
}

#[derive(clap::Args)]
pub(crate) struct FillOptions {
    /// Where.
    at: PathBuf,
    /// Small objects.
    objects: u64,
    /// Large contents, in MiB.
    mib: u64,
}

/// Callers that fill the store together.
const CALLERS: u64 = 128;

pub(crate) fn run(dir: &Path, options: &Options) -> Result<(), Failure> {
    let small = reopened(dir, options.objects / 10, options.mib / 10)?;
    let large = reopened(dir, options.objects, options.mib)?;
    header();
    row(
        &format!("opening {} objects and {} MiB after SIGKILL", options.objects, options.mib),
        &format!("{:.0} ms", large * 1e3),
        &format!("a tenth of both: {:.0} ms", small * 1e3),
        small / large,
    );
    Ok(())
}

/// Fills a store in a child process, kills it, and opens the store; seconds until the first object is read.
fn reopened(dir: &Path, objects: u64, mib: u64) -> Result<f64, Failure> {
    let scratch = store::scratch(dir)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("reopen-fill").arg(scratch.path()).arg(objects.to_string()).arg(mib.to_string());
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().ok_or("no output of the child")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    child.kill()?;
    child.wait()?;
    if line.trim() != "filled" {
        return Err("the child could not fill the store".into());
    }
    let runtime = store::runtime()?;
    let start = Instant::now();
    runtime.block_on(async {
        let (segment, bucket) = store::open(scratch.path()).await?;
        bucket.head("small/000/00000000", Default::default()).await?;
        let took = start.elapsed().as_secs_f64();
        segment.close().await?;
        Ok(took)
    })
}

/// The child: fills, says so, and goes on writing until it is killed.
pub(crate) fn fill(options: &FillOptions) -> Result<(), Failure> {
    let runtime = store::runtime()?;
    runtime.block_on(async {
        let (_segment, bucket) = store::create(&options.at).await?;
        let mut source = Source::new(9);
        let mut writer = bucket.writer("large", PutOptions::default()).await?;
        for _ in 0..options.mib {
            writer.push(source.piece(PIECE_BYTES)).await?;
        }
        writer.seal().await?.commit().await?;
        let objects = options.objects.max(1);
        let tasks: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let bucket = bucket.clone();
                tokio::spawn(async move {
                    let mut source = Source::new(caller);
                    for number in (caller..objects).step_by(CALLERS as usize) {
                        let key = format!("small/{:03}/{number:08}", number % 997);
                        bucket.put(key, source.piece(200), PutOptions::default()).await?;
                    }
                    Ok::<_, tombolo_core::Error>(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        println!("filled");
        std::io::stdout().flush()?;
        loop {
            bucket.put("more", source.piece(200), PutOptions::default()).await?;
        }
    })
}
