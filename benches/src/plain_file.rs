//! The references: what the file system does when asked as plainly as possible.

use crate::Failure;
use crate::figure::rate;
use bytes::Bytes;
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

/// Writes `pieces` to a new file, then `fdatasync`; MiB/s.
pub(crate) fn write(path: &Path, pieces: &[Bytes]) -> Result<f64, Failure> {
    let mut file = File::create(path)?;
    let start = Instant::now();
    for piece in pieces {
        file.write_all(piece)?;
    }
    file.sync_data()?;
    Ok(rate(pieces.iter().map(|piece| piece.len() as u64).sum(), start.elapsed().as_secs_f64()))
}

/// Reads a file that is in the page cache (it is read once before the clock starts) into one reused buffer of 1 MiB; MiB/s.
pub(crate) fn read_cached(path: &Path) -> Result<f64, Failure> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut all = |file: &mut File| -> std::io::Result<u64> {
        let mut total = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(total),
                count => total += count as u64,
            }
        }
    };
    all(&mut file)?;
    file.seek(SeekFrom::Start(0))?;
    let start = Instant::now();
    let total = all(&mut file)?;
    Ok(rate(total, start.elapsed().as_secs_f64()))
}

/// Seconds that each of `count` overwrites of 4 KiB in a preallocated, written file takes with its `fdatasync`.
pub(crate) fn sync_latencies(path: &Path, count: usize) -> Result<Vec<f64>, Failure> {
    let file = File::create(path)?;
    let block = [0x5a; 4096];
    let blocks = 1024_u64;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, blocks * 4096)?;
    for at in 0..blocks {
        file.write_all_at(&block, at * 4096)?;
    }
    file.sync_all()?;
    let mut latencies = Vec::with_capacity(count);
    for turn in 0..count as u64 {
        let start = Instant::now();
        file.write_all_at(&block, turn % blocks * 4096)?;
        file.sync_data()?;
        latencies.push(start.elapsed().as_secs_f64());
    }
    Ok(latencies)
}
