//! The `tombolo` command: serves a segment and manages it.
//!
//! Each verb is written once, against a `backend` that carries its operations out in this process or in the daemon that
//! has the data directory; both run the same code (`execute`). The daemon holds the segment's one process lock; commands
//! reach it through a socket in the directory (`control`), in the frames of `wire`.
//!
//! The crate is a library so that tests and fuzz targets reach its parsers; programs embed `tombolo-core` instead.

#![forbid(unsafe_code)]

mod arguments;
mod backend;
mod control;
mod demo;
mod doors;
mod execute;
mod failure;
mod fstab;
mod hosted;
mod logging;
mod mounts;
mod output;
pub mod path;
mod progress;
mod quantity;
mod serve;
mod tree;
mod verbs;
mod wire;

#[doc(hidden)]
pub use wire::{MESSAGES, Message, reframe};

use clap::Parser;
use failure::{Exit, Failure};
use std::process::ExitCode;
use tombolo_core::{Error, ErrorKind};

/// Runs the command line of this process; gives its exit code.
pub fn main() -> ExitCode {
    let arguments = fstab::arguments(std::env::args_os());
    let asks_for_json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    let cli = match arguments::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if asks_for_json && error.use_stderr() => {
            let message = error.to_string();
            Failure::Engine(Error::invalid(message.trim_end().trim_start_matches("error: "))).report(true);
            return Exit::WrongUsage.into();
        }
        Err(error) => {
            // Help and the version come this way too. When they can't be printed there is nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { Exit::WrongUsage.into() } else { Exit::Done.into() };
        }
    };
    let as_json = cli.json;
    tombolo_core::raise_descriptor_limit();
    match run(cli) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            failure.report(as_json);
            failure.exit().into()
        }
    }
}

fn run(cli: arguments::Cli) -> failure::Outcome {
    logging::start(&cli)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::Engine(Error::new(ErrorKind::Failed, "the process cannot start threads").because(e)))?;
    let outcome = runtime.block_on(verbs::run(cli));
    // A thread may still wait for standard input.
    runtime.shutdown_background();
    outcome
}
