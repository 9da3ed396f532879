//! Figures, each beside a reference taken in the same run on the same file system.
//!
//! ```text
//! cargo run --release -p tombolo-benches -- NAME [--dir DIR] [options]     # `help` lists the names
//! ```
//!
//! The numbers of a shared machine move by half from one minute to the next; the ratios move much less. So a row without
//! its reference says nothing, and references alternate with what they are compared to.

mod chunking;
mod figure;
mod ingest;
mod latency;
mod memory;
mod plain_file;
mod reopen;
mod s3;
mod source;
mod store;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// As in the `tombolo` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Anything that ends a run.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures Tombolo against what the machine itself can do.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where stores and files are made and removed again; on the file system to be measured.
    #[arg(long, global = true, default_value = "target/bench")]
    dir: PathBuf,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Large incompressible content: first ingest, second ingest, warm verified read.
    Ingest(ingest::Options),
    /// 4 KiB durable puts: many callers, and one.
    Puts(latency::Options),
    /// Resident memory while importing large objects, then many small ones.
    Memory(memory::Options),
    /// Time to open a store of many objects after SIGKILL.
    Reopen(reopen::Options),
    /// An S3 endpoint under load, beside another one.
    S3(s3::Options),
    /// Averages of content-defined chunks beside each other.
    Chunking(chunking::Options),
    /// Fills a store and waits to be killed. Part of `reopen`.
    #[command(hide = true)]
    ReopenFill(reopen::FillOptions),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.bench {
        Bench::Ingest(options) => ingest::run(&arguments.dir, options),
        Bench::Puts(options) => latency::run(&arguments.dir, options),
        Bench::Memory(options) => memory::run(&arguments.dir, options),
        Bench::Reopen(options) => reopen::run(&arguments.dir, options),
        Bench::S3(options) => s3::run(options),
        Bench::Chunking(options) => chunking::run(&arguments.dir, options),
        Bench::ReopenFill(options) => reopen::fill(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tombolo-benches: {failure}");
            ExitCode::FAILURE
        }
    }
}
