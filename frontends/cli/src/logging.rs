//! The log on standard error.

use crate::arguments::{Cli, LogFormat, Verb};
use std::str::FromStr;
use tombolo_core::{Error, Result};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Starts logging as the command line says; by default a daemon tells what it does, a command only what goes wrong.
pub(crate) fn start(cli: &Cli) -> Result<()> {
    let default = if matches!(cli.verb, Verb::Serve(_)) { "info" } else { "error" };
    let text = cli.log_level.as_deref().unwrap_or(default);
    let targets = Targets::from_str(text).map_err(|e| {
        Error::invalid(format!("'{text}' is not a log level: {e}; give error, warn, info, debug or trace"))
    })?;
    // s3s takes every request that is refused for an error of the server; the S3 door has its own lines. Who names s3s gets them all the same.
    let targets = if text.contains("s3s") { targets } else { targets.with_target("s3s", LevelFilter::OFF) };
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let layer = match cli.log_format {
        LogFormat::Text => lines.with_filter(targets).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(targets).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer)
        .try_init()
        .map_err(|e| Error::invalid("logging is set up already").because(e))
}
