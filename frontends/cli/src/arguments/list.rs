//! The arguments of `ls`.

use super::AfterArgs;
use clap::Args;
use std::ffi::OsString;

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// What to list below; all clusters without it.
    #[arg(default_value = "")]
    pub(crate) path: OsString,
    /// Sizes, times, and whether the data is here, too.
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Everything below, not just the next level.
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Also names that are away: out of sight here, because others hold them.
    #[arg(long, conflicts_with = "snapshot")]
    pub(crate) all: bool,
    /// As this snapshot of the bucket saw it.
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshot: Option<String>,
    #[command(flatten)]
    pub(crate) after: AfterArgs,
}
