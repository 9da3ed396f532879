//! `rm`, `cp`, `mv` and `mkdir`.

use super::ViewArgs;
use clap::Args;
use std::ffi::OsString;

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// What to delete.
    pub(crate) path: OsString,
    /// Everything below the path too.
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Delete this version for good.
    #[arg(long, value_name = "ID", conflicts_with = "recursive")]
    pub(crate) version: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// What to copy.
    pub(crate) from: OsString,
    /// Where to; a bucket or a path that ends in / takes the name of what is copied.
    pub(crate) to: OsString,
    /// Everything below FROM, to the same names below TO.
    #[arg(short, long)]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) view: ViewArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MvArgs {
    /// What to rename.
    pub(crate) from: OsString,
    /// Its new path; a bucket or a path that ends in / takes the name.
    pub(crate) to: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct MkdirArgs {
    /// The directory.
    pub(crate) path: OsString,
    /// Also those above it; and if it is there already, that is no error.
    #[arg(short, long)]
    pub(crate) parents: bool,
}
