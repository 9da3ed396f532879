//! Comparing a bucket here with the same at another segment, both at one instant: from one hash for all rows down to the rows that differ.

use super::summary::{RangeSummary, RowName, RowRange, RowSummary, Summary};
use crate::error::{Error, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::cmp::Ordering;

/// The most ranges that are asked about at once.
pub const RANGES_MAX: usize = 64;
/// A range that differs is cut in this many parts.
const PARTS: u64 = 16;
/// A range of this many rows is looked at row by row.
const ROWS_LISTED: u64 = 16;

/// The other segment, answering from one instant.
#[async_trait]
pub trait Counterpart: Sync {
    /// Which of these ranges (at most [`RANGES_MAX`]), by their place in the list, it holds otherwise.
    async fn differing(&self, ranges: &[RangeSummary]) -> Result<Vec<usize>>;

    /// The first of its rows in a range, as many as it cares to tell, and where to go on if there are more.
    async fn rows(&self, range: &RowRange) -> Result<(Vec<RowSummary>, Option<Bytes>)>;
}

/// Who holds a row that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Both, and not the same.
    Differently,
    /// Only this segment.
    Here,
    /// Only the other one.
    There,
}

/// A row that is not the same at both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Who holds it.
    pub held: Held,
    /// What it is about, as far as that can be told here.
    pub name: RowName,
}

/// What came of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Comparison {
    /// Rows here that were compared.
    pub rows: u64,
    /// What differs, in the order of rows. Empty: nothing does.
    pub differences: Vec<Difference>,
    /// Whether it stopped at the limit, so that there may be more.
    pub is_more: bool,
}

/// Finds up to `limit` rows that differ. Round trips and what is told are in proportion to the differences and to the logarithm of the rows; rows here are read about
/// twice. Holds in memory what is in proportion to the logarithm, too.
pub async fn compare(here: &Summary, there: &dyn Counterpart, limit: usize) -> Result<Comparison> {
    let whole = here.whole(&RowRange::default()).await?;
    let mut found = Comparison { rows: whole.rows, ..Comparison::default() };
    let mut open = vec![whole];
    while !open.is_empty() {
        let mut asked = open.split_off(open.len().saturating_sub(RANGES_MAX));
        // The last are looked at first, and cut in parts: so few are open, and differences come in order.
        let mut differing = there.differing(&asked).await?;
        differing.sort_unstable();
        differing.dedup();
        if differing.last().is_some_and(|last| *last >= asked.len()) {
            return Err(Error::damaged("a range that nobody asked about is said to differ"));
        }
        let mut at = 0;
        asked.retain(|_| {
            at += 1;
            differing.binary_search(&(at - 1)).is_ok()
        });
        for range in asked {
            if range.rows <= ROWS_LISTED {
                list(here, there, &range.range, limit, &mut found).await?;
                if found.is_more {
                    return Ok(found);
                }
            } else {
                open.extend(here.parts(&range.range, range.rows.div_ceil(PARTS)).await?);
            }
        }
    }
    Ok(found)
}

/// Compares a range row by row.
async fn list(
    here: &Summary,
    there: &dyn Counterpart,
    range: &RowRange,
    limit: usize,
    found: &mut Comparison,
) -> Result<()> {
    let mut rest = range.clone();
    loop {
        let (theirs, next) = there.rows(&rest).await?;
        let part = RowRange { start: rest.start.clone(), end: next.clone().unwrap_or_else(|| rest.end.clone()) };
        check_order(&theirs, &part, next.is_some())?;
        let (ours, _) = here.rows(&part, usize::MAX).await?;
        let (mut ours, mut theirs) = (ours.into_iter().peekable(), theirs.into_iter().peekable());
        loop {
            let order = match (ours.peek(), theirs.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(our), Some(their)) => our.key.cmp(&their.key),
            };
            let our = if order.is_le() { ours.next() } else { None };
            let their = if order.is_ge() { theirs.next() } else { None };
            let held = match (&our, &their) {
                (Some(our), Some(their)) if our.hash == their.hash => continue,
                (Some(_), Some(_)) => Held::Differently,
                (Some(_), None) => Held::Here,
                (None, _) => Held::There,
            };
            if found.differences.len() == limit {
                found.is_more = true;
                return Ok(());
            }
            if let Some(row) = our.or(their) {
                found.differences.push(Difference { held, name: here.describe(&row.key).await? });
            }
        }
        match next {
            Some(next) => rest.start = next,
            None => return Ok(()),
        }
    }
}

/// What the other segment lists must be in order and in the range, and lead on.
fn check_order(rows: &[RowSummary], part: &RowRange, is_more: bool) -> Result<()> {
    let is_in = |key: &Bytes| *key >= part.start && (part.end.is_empty() || *key < part.end);
    let leads_on = !is_more || part.end > part.start;
    if leads_on && rows.iter().all(|row| is_in(&row.key)) && rows.is_sorted_by(|a, b| a.key < b.key) {
        return Ok(());
    }
    Err(Error::damaged("rows are listed that nobody asked about, or twice"))
}
