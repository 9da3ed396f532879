//! Tombolo's FUSE door: the namespace, a tenant, a bucket or a directory of one as a file system of this host.
//!
//! [`Mount::new`] mounts; requests are answered in the background until [`Mount::unmount`] or until somebody unmounts it from outside.
//! The door holds no state that matters: what is written is in the engine when the kernel hands it over, and a mount whose process was
//! killed is replaced by the next.
//!
//! Layers: `adapter` (which alone names the FUSE crate's types) turns requests into calls of `door`, which answers from the engine's
//! [`FileSystem`](tombolo_core::engine::fs::FileSystem); `inodes` keeps the numbers and names that the kernel knows nodes by; `caches` tells the kernel what
//! other doors changed.
//!
//! Permission is checked twice: by the kernel, with all of the caller's credentials, against the attributes it caches
//! (`default_permissions`), and by the engine's one permission function, as for every door.

#![forbid(unsafe_code)]

mod adapter;
mod caches;
mod caller;
mod data;
mod directory;
mod door;
#[cfg(test)]
mod fixture;
mod handles;
mod inodes;
mod locks;
mod metadata;
mod mount;
mod options;
mod target;
mod time;
mod xattr;

pub use mount::{Mount, is_stale, unmount};
pub use options::MountOptions;
pub use target::MountPath;
