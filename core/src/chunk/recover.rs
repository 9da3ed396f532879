//! Opening the packs of a segment: which are sealed, and what a crash left of the others.
//!
//! Only the last 64 bytes of each pack are read, and packs without a valid trailer as a whole; there are as many of those as were
//! being written when the process died, one or two as a rule.

use super::open_pack::OpenPack;
use super::pack::{
    PACK_HEADER_BYTES, TRAILER_BYTES, check_pack_header, encode_pack_header, pack_name, pack_number, read_trailer,
};
use super::scan::scan;
use crate::disk::{Disk, File};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SegmentId;
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

/// What opening found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Number of packs, all kinds together.
    pub packs: usize,
    /// Packs that a crash left without an index.
    pub recovered: Vec<RecoveredPack>,
    /// Packs that something is wrong with. They are left as they are; what can be read of them can be read.
    pub damaged: Vec<DamagedPack>,
}

/// A pack that got its index from a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveredPack {
    /// Its number.
    pub number: u64,
    /// Whole records in it. With none the file was removed.
    pub records: usize,
    /// Bytes after the last whole record that were cut off.
    pub cut_bytes: u64,
    /// Bytes between records that belong to none: writes that were under way or had failed.
    pub gap_bytes: u64,
}

/// A pack that is not as it should be.
#[derive(Debug)]
pub struct DamagedPack {
    /// Its number.
    pub number: u64,
    /// What is wrong.
    pub error: Error,
}

/// The packs of a directory.
#[derive(Default)]
pub(super) struct Found {
    /// Length of each sealed pack, by number.
    pub(super) sealed: BTreeMap<u64, u64>,
    /// Packs that need an index.
    pub(super) open: BTreeMap<u64, Arc<OpenPack>>,
    /// Length of each damaged pack, by number.
    pub(super) damaged: BTreeMap<u64, u64>,
    pub(super) next_number: u64,
    pub(super) recovery: Recovery,
}

/// Looks through `disk`. An error means that the directory can't be used as a whole: it can't be listed, or
/// a pack has a format this build does not know.
pub(super) fn find_packs(disk: &dyn Disk, segment: &SegmentId) -> Result<Found> {
    let mut found = Found::default();
    for info in disk.list()? {
        let Some(number) = pack_number(&info.name) else {
            continue;
        };
        found.next_number = found.next_number.max(number.saturating_add(1));
        let outcome = disk.open(&info.name).and_then(|file| {
            if is_sealed(&*file, number, info.bytes)? {
                found.sealed.insert(number, info.bytes);
                return Ok(());
            }
            let Some((pack, recovered)) = recover_pack(file, segment, number)? else {
                disk.remove(&info.name)?;
                return Ok(());
            };
            found.recovery.recovered.push(recovered);
            found.open.insert(number, Arc::new(pack));
            Ok(())
        });
        match outcome {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Invalid => {
                return Err(Error::invalid(format!("pack {} can't be used", info.name)).because(error));
            }
            Err(error) => {
                tracing::error!(%error, pack = info.name, "a pack is damaged");
                found.damaged.insert(number, info.bytes);
                found.recovery.damaged.push(DamagedPack { number, error });
            }
        }
    }
    found.recovery.packs = found.sealed.len() + found.open.len() + found.damaged.len();
    Ok(found)
}

/// Whether the file ends with a valid trailer. `Invalid` if that is of an unknown version.
fn is_sealed(file: &dyn File, number: u64, file_bytes: u64) -> Result<bool> {
    let Some(start) = file_bytes.checked_sub(TRAILER_BYTES).filter(|start| *start >= PACK_HEADER_BYTES) else {
        return Ok(false);
    };
    let mut trailer = [0; TRAILER_BYTES as usize];
    file.read_at(&mut trailer, start)?;
    match read_trailer(&trailer, number, file_bytes) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Invalid => Err(error),
        Err(_) => Ok(false),
    }
}

/// Scans a pack without trailer and cuts its torn tail; `None` if nothing at all is in it.
fn recover_pack(file: Arc<dyn File>, segment: &SegmentId, number: u64) -> Result<Option<(OpenPack, RecoveredPack)>> {
    let mut header = [0; PACK_HEADER_BYTES as usize];
    let count = file.read_at(&mut header, 0)?;
    // The header may be lost although records behind it were written, if none of it was ever synced.
    let is_blank = count < header.len() || header.iter().all(|byte| *byte == 0);
    if !is_blank {
        check_pack_header(&header, segment, number)?;
    }
    let scan = scan(&*file)?;
    if scan.entries.is_empty() && (is_blank || scan.is_complete) {
        tracing::info!(pack = pack_name(number), "a pack without a whole record is removed");
        return Ok(None);
    }
    if !scan.is_complete {
        return Err(Error::damaged("too much of the pack does not match its ids; it is left as it is"));
    }
    let cut_bytes = file.len()?.saturating_sub(scan.end);
    if is_blank {
        file.write_at(&[IoSlice::new(&encode_pack_header(segment, number))], 0)?;
    }
    if cut_bytes > 0 {
        file.truncate(scan.end)?;
    }
    let recovered = RecoveredPack { number, records: scan.entries.len(), cut_bytes, gap_bytes: scan.gap_bytes };
    tracing::info!(?recovered, "a pack is recovered");
    Ok(Some((OpenPack::recovered(number, file, scan.end, scan.entries), recovered)))
}
