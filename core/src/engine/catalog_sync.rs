//! The catalog between segments: names and policies of clusters, tenants and buckets, as registers that merge. Users and
//! snapshots stay at home.
//!
//! Two rules beside those of a register. A bucket that holds something outlives a concurrent deletion, and what it is in with it; the segment that has the content
//! says so by an ordinary write. A bucket is deleted when it is empty, and a row beside its tombstone says what of the bucket was known then: what lies at or below is
//! dead, be the news of it still on its way. And two buckets that turn out to have one path, which takes a deletion on one side, are both
//! kept if the deleted one outlives that: the one whose entry was written first goes on under a derived name.

use super::buried::Buried;
use super::catalog::{self as change, Catalog};
use super::segment::{number_row, shared_row};
use super::{Bucket, transact};
use crate::catalog::{self, CatalogRow, CatalogValue};
use crate::error::{Error, Result, Subject};
use crate::id::{BucketId, SegmentId};
use crate::kv::{KeyRange, Space};
use crate::namespace::keys::BucketNumber;
use crate::namespace::{self, Txn};
use crate::object::BucketInfo;
use crate::path::{BucketPath, NAME_BYTES_MAX, TenantPath, check_name};
use crate::register::{HybridClock, Register, VersionVector};
use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use std::collections::HashSet;

const FORMAT: u8 = 2;
/// As it was before deletions said what they knew.
const FORMAT_WITHOUT_SEEN: u8 = 1;
/// Stands for the catalog in the rows that say what other segments may have seen.
pub(super) const CATALOG_ID: BucketId = BucketId([0; 16]);

/// What a row of the catalog is about, for who decides what may travel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CatalogName {
    /// A cluster.
    Cluster(String),
    /// A tenant.
    Tenant(TenantPath),
    /// A bucket.
    Bucket(BucketPath),
}

impl CatalogName {
    fn of(key: &[u8]) -> Result<Option<CatalogName>> {
        let names = catalog::names(key);
        for name in &names {
            check_name(name)?;
        }
        Ok(match (key.first(), names.as_slice()) {
            (Some(1), [cluster]) => Some(CatalogName::Cluster(cluster.clone())),
            (Some(2), [cluster, tenant]) => Some(CatalogName::Tenant(TenantPath::new(cluster, tenant)?)),
            (Some(3), [cluster, tenant, bucket]) | (Some(6), [cluster, tenant, bucket, _]) => {
                Some(CatalogName::Bucket(TenantPath::new(cluster, tenant)?.bucket(bucket)?))
            }
            _ => None,
        })
    }
}

/// What taking in another segment's catalog changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogChanges {
    /// Buckets that are new here, or have another policy.
    pub changed: Vec<BucketPath>,
    /// Buckets that are gone.
    pub removed: Vec<BucketPath>,
    /// Buckets that had to take another name: the old path and the new one.
    pub renamed: Vec<(BucketPath, BucketPath)>,
    /// The numbers of those that are gone, whose rows are to be erased.
    erased: Vec<BucketNumber>,
}

impl CatalogChanges {
    fn bury(&mut self, path: &BucketPath, number: BucketNumber) {
        self.removed.push(path.clone());
        self.erased.push(number);
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == CatalogChanges::default()
    }
}

type Item = (Bytes, Register<CatalogValue>);
/// A key, and its values before and after.
type Merged = (Bytes, Option<CatalogValue>, Option<CatalogValue>);

impl Catalog {
    /// What is known of clusters, tenants and buckets that `covers` lets pass, in the form that [`Catalog::import`] takes. From now on
    /// deletions leave tombstones.
    pub async fn export(&self, covers: &(dyn Fn(&CatalogName) -> bool + Sync)) -> Result<Bytes> {
        self.share().await?;
        let own = self.0.id();
        let view = self.0.store().snapshot().await?;
        let mut out = vec![FORMAT];
        out.extend_from_slice(&own.0);
        for level in [1, 2, 3, 6] {
            let prefix = catalog::level_prefix(level, &[]);
            let mut range = KeyRange::prefix(&prefix);
            loop {
                let page = view.scan(Space::Catalog, range, 1000, false).await?;
                for (key, row) in &page.rows {
                    if CatalogName::of(key)?.is_some_and(|name| covers(&name)) {
                        let row = CatalogRow::decode(row.clone(), &own)?;
                        // The row as it is, without its format and commit.
                        let register = row.encode(&own);
                        put(&mut out, key);
                        put(&mut out, register.get(9..).unwrap_or_default());
                    }
                }
                match page.rows.last() {
                    Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
                    _ => break,
                }
            }
        }
        Ok(out.into())
    }

    /// Merges what another segment exported, as far as `covers` lets it pass.
    pub async fn import(
        &self,
        exported: &[u8],
        covers: &(dyn Fn(&CatalogName) -> bool + Sync),
    ) -> Result<CatalogChanges> {
        let mut items = decode(exported)?;
        items.retain(|(key, _)| matches!(CatalogName::of(key), Ok(Some(name)) if covers(&name)));
        let elsewhere = self.uncovered(covers).await?;
        let latest = items.iter().map(|(_, register)| register.time_max()).max().unwrap_or_default();
        if latest > HybridClock::REMOTE_TIME_MAX {
            return Err(Error::invalid("a catalog has stamps from further ahead than any clock can be"));
        }
        self.share().await?;
        self.0.ledger().observe(latest);
        let (changes, _) = transact!(self.0, txn, {
            let mut changes = CatalogChanges::default();
            let mut merged = Vec::new();
            for (key, theirs) in &items {
                merged.extend(self.merge(&mut txn, key, theirs, &elsewhere).await?);
            }
            // What becomes of what is above depends on what has become of what is below.
            for (key, before, after) in merged.iter().rev() {
                self.merged(&mut txn, key, before.clone(), after.clone(), &mut changes).await?;
            }
            changes
        })?;
        for path in changes.removed.iter().chain(changes.renamed.iter().map(|(from, _)| from)) {
            if let Some(state) = self.0.0.buckets.write().remove(path) {
                state.set_deleted();
            }
        }
        for number in &changes.erased {
            self.settle_buried(*number).await?;
        }
        for path in &changes.changed {
            let state = self.0.0.buckets.read().get(path).cloned();
            let Some(state) = state else { continue };
            match self.info(path).await? {
                Some((info, origin)) if info.id == state.id => {
                    state.share();
                    Bucket::new(self.0.clone(), state).follow_policy(info.policy, origin).await?;
                }
                _ => {
                    state.set_deleted();
                    self.0.0.buckets.write().remove(path);
                }
            }
        }
        Ok(changes)
    }

    /// The ids of buckets, deleted ones that may come back among them, at paths that `covers` does not let pass.
    async fn uncovered(&self, covers: &(dyn Fn(&CatalogName) -> bool + Sync)) -> Result<HashSet<BucketId>> {
        let is_uncovered = |path: &BucketPath| !covers(&CatalogName::Bucket(path.clone()));
        let buckets = self.all_buckets().await?.into_iter().map(|info| (info.path, info.id));
        let buried = self.buried_paths().await?;
        Ok(buckets.chain(buried).filter(|(path, _)| is_uncovered(path)).map(|(_, id)| id).collect())
    }

    /// All buckets, by path.
    pub async fn all_buckets(&self) -> Result<Vec<BucketInfo>> {
        let mut buckets = Vec::new();
        for (names, value) in self.rows(catalog::level_prefix(3, &[])).await? {
            if let ([cluster, tenant, bucket], CatalogValue::Bucket { id, created_ns, policy, .. }) =
                (names.as_slice(), value)
            {
                let path = TenantPath::new(cluster, tenant)?.bucket(bucket)?;
                buckets.push(BucketInfo { path, id: BucketId::from_hex(&id)?, created_ns, policy });
            }
        }
        Ok(buckets)
    }

    /// The bucket with this id; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) about [`Subject::Bucket`] if there is none.
    pub async fn bucket_with_id(&self, id: &BucketId) -> Result<Bucket> {
        let open = self.0.0.buckets.read().values().find(|state| state.id == *id).cloned();
        if let Some(state) = open.filter(|state| !state.is_deleted()) {
            return Ok(Bucket::new(self.0.clone(), state));
        }
        match self.all_buckets().await?.into_iter().find(|info| info.id == *id) {
            Some(info) => self.0.bucket(&info.path).await,
            None => Err(Error::not_found(Subject::Bucket, format!("there is no bucket with the id {id}"))),
        }
    }

    /// What the catalog says about a bucket, and where it was made.
    async fn info(&self, path: &BucketPath) -> Result<Option<(BucketInfo, Option<SegmentId>)>> {
        let Some(row) = self.0.store().get(Space::Catalog, &catalog::bucket_key(path)).await? else {
            return Ok(None);
        };
        match CatalogRow::decode(row, &self.0.id())?.register.value() {
            Some(CatalogValue::Bucket { id, created_ns, policy, origin, .. }) => {
                let origin = origin.as_deref().map(SegmentId::from_hex).transpose()?;
                let (path, id, policy) = (path.clone(), BucketId::from_hex(id)?, policy.clone());
                Ok(Some((BucketInfo { path, id, created_ns: *created_ns, policy }, origin)))
            }
            _ => Ok(None),
        }
    }

    async fn share(&self) -> Result<()> {
        self.0.contents().set_linked();
        if self.0.store().get(Space::Meta, &shared_row(&CATALOG_ID)).await?.is_none() {
            transact!(self.0, txn, {
                txn.put(Space::Meta, shared_row(&CATALOG_ID).into(), vec![1]);
            })?;
        }
        Ok(())
    }

    /// If that changes anything: what was there, and what is now. Ids of buckets are no secret: one that is at another path, which who sends this may not see, must not
    /// be had by saying that it is at this one.
    async fn merge(
        &self,
        txn: &mut Txn,
        key: &Bytes,
        theirs: &Register<CatalogValue>,
        elsewhere: &HashSet<BucketId>,
    ) -> Result<Option<Merged>> {
        let ours = txn.catalog(key.clone()).await?.register.clone();
        let mut merged = ours.clone();
        if !merged.merge(theirs) {
            return Ok(None);
        }
        let (before, after) = (ours.value().cloned(), merged.value().cloned());
        if let Some(CatalogValue::Bucket { id, .. }) = &after
            && elsewhere.contains(&BucketId::from_hex(id)?)
        {
            tracing::warn!(path = ?catalog::names(key), %id, "a bucket is said to be one that has another path; that is not taken in");
            return Ok(None);
        }
        txn.edit_catalog(key.clone()).await?.register = merged;
        Ok(Some((key.clone(), before, after)))
    }

    /// What follows from a name that has been merged.
    #[boxed]
    async fn merged(
        &self,
        txn: &mut Txn,
        key: &Bytes,
        before: Option<CatalogValue>,
        after: Option<CatalogValue>,
        changes: &mut CatalogChanges,
    ) -> Result<()> {
        let Some(name) = CatalogName::of(key)?.filter(|_| key.first() != Some(&6)) else { return Ok(()) };
        match name {
            CatalogName::Bucket(path) => self.merged_bucket(txn, key, &path, before, after, changes).await,
            CatalogName::Cluster(cluster) => {
                let below = catalog::level_prefix(2, &[&cluster]);
                if after.is_none() && before.is_some() && change::has_live(txn, &below).await? {
                    change::write(txn, key.clone(), before).await?;
                }
                Ok(())
            }
            CatalogName::Tenant(tenant) => {
                let below = [3, 4].map(|level| catalog::level_prefix(level, &[&tenant.cluster, &tenant.tenant]));
                let is_used = change::has_live(txn, &below[0]).await? || change::has_live(txn, &below[1]).await?;
                if after.is_none() && before.is_some() && is_used {
                    change::write(txn, key.clone(), before).await?;
                }
                Ok(())
            }
        }
    }

    async fn merged_bucket(
        &self,
        txn: &mut Txn,
        key: &Bytes,
        path: &BucketPath,
        before: Option<CatalogValue>,
        after: Option<CatalogValue>,
        changes: &mut CatalogChanges,
    ) -> Result<()> {
        let id = |value: &Option<CatalogValue>| match value {
            Some(CatalogValue::Bucket { id, .. }) => BucketId::from_hex(id).map(Some),
            _ => Ok(None),
        };
        match (id(&before)?, id(&after)?) {
            (None, None) => {}
            (before_id, Some(now)) => {
                if let Some(old) = before_id.filter(|old| *old != now) {
                    match self.bury_unless_new(txn, path, &old, before.clone()).await? {
                        Some(number) => changes.bury(path, number),
                        None => changes.renamed.push((path.clone(), self.rename(txn, path, &old, before).await?)),
                    }
                }
                self.join(txn, key).await?;
                self.admit(txn, &now).await?;
                self.revive_above(txn, path).await?;
                changes.changed.push(path.clone());
            }
            (Some(old), None) => match (self.bury_unless_new(txn, path, &old, before.clone()).await?, before) {
                (Some(number), _) => changes.bury(path, number),
                (None, Some(before)) => self.revive(txn, path, before).await?,
                (None, None) => {}
            },
        }
        Ok(())
    }

    /// Where segments have set the policy at the same time, each value is what was set last.
    async fn join(&self, txn: &mut Txn, key: &Bytes) -> Result<()> {
        let register = txn.catalog(key.clone()).await?.register.clone();
        let Some(shown) = register.value() else { return Ok(()) };
        let mut joined = shown.clone();
        for (_, value) in register.live_values() {
            joined = joined.join(value)?;
        }
        if joined != *shown {
            change::write(txn, key.clone(), Some(joined)).await?;
        }
        Ok(())
    }

    /// Buries a bucket that has been deleted, and returns its number; `None`: it holds something of which who deleted it did not know, or was not deleted
    /// but has lost its path.
    async fn bury_unless_new(
        &self,
        txn: &mut Txn,
        path: &BucketPath,
        id: &BucketId,
        was: Option<CatalogValue>,
    ) -> Result<Option<BucketNumber>> {
        let number = self.0.bucket_number(id).await?;
        let is_it =
            |value: &CatalogValue| matches!(value, CatalogValue::Bucket { id: other, .. } if *other == id.to_string());
        let is_live =
            txn.catalog(catalog::bucket_key(path)).await?.register.live_values().any(|(_, value)| is_it(value));
        // Each of those who deleted it says what it knew.
        let mut seen = VersionVector::new();
        for (_, value) in txn.catalog(catalog::seen_key(path, id)).await?.register.live_values() {
            if let CatalogValue::Seen { vector } = value {
                seen.merge(&vector.parse()?);
            }
        }
        let is_unsaved = self.0.open_nodes().holds_unsaved(number);
        if is_live || is_unsaved || self.has_news(txn, number, &seen).await? || self.has_by_itself(id, number).await? {
            return Ok(None);
        }
        change::take_number(txn, id, Buried::new(number, id, &seen).was(path, was)).await?;
        Ok(Some(number))
    }

    /// Whether a bucket holds something, and has changes from beyond `seen`.
    pub(super) async fn has_news(&self, txn: &mut Txn, number: BucketNumber, seen: &VersionVector) -> Result<bool> {
        let has_content = self.has_content(txn, number);
        let snapshot = self.0.store().snapshot().await?;
        Ok(has_content && namespace::holds_beyond(self.0.ledger(), &snapshot, number, seen).await?)
    }

    /// A bucket outlives its deletion.
    pub(super) async fn revive(&self, txn: &mut Txn, path: &BucketPath, value: CatalogValue) -> Result<()> {
        change::write(txn, catalog::bucket_key(path), Some(value)).await?;
        self.revive_above(txn, path).await
    }

    /// Gives a bucket a number here, if it has none.
    async fn admit(&self, txn: &mut Txn, id: &BucketId) -> Result<()> {
        if txn.read(Space::Meta, &number_row(id)).await?.is_none() {
            change::give_number(txn, id).await?;
        }
        txn.put(Space::Meta, shared_row(id).into(), vec![1]);
        Ok(())
    }

    /// A bucket's tenant and cluster are there, whoever removed them.
    async fn revive_above(&self, txn: &mut Txn, path: &BucketPath) -> Result<()> {
        let created_ns = self.0.now_ns();
        let above = [
            (catalog::cluster_key(&path.tenant.cluster), CatalogValue::Cluster { created_ns }),
            (catalog::tenant_key(&path.tenant), CatalogValue::Tenant { created_ns }),
        ];
        for (key, value) in above {
            if txn.catalog(key.clone()).await?.register.value().is_none() {
                change::write(txn, key, Some(value)).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn rename(
        &self,
        txn: &mut Txn,
        path: &BucketPath,
        id: &BucketId,
        value: Option<CatalogValue>,
    ) -> Result<BucketPath> {
        let tail: String = format!("-conflict-{}", id.to_string().chars().take(8).collect::<String>());
        let stem: String = path.bucket.chars().take(NAME_BYTES_MAX.saturating_sub(tail.len())).collect();
        let other = path.tenant.bucket(&format!("{stem}{tail}"))?;
        change::write(txn, catalog::bucket_key(&other), value).await?;
        Ok(other)
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    crate::register::codec::put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what [`Catalog::export`] wrote. `Invalid` for a format this build does not know, else `Damaged`.
fn decode(exported: &[u8]) -> Result<Vec<Item>> {
    use crate::register::codec::{take_array, take_slice, take_varint};
    let mut input = exported;
    match take_array::<1>(&mut input)? {
        [FORMAT | FORMAT_WITHOUT_SEEN] => {}
        [other] => {
            return Err(Error::invalid(format!(
                "a catalog has format {other}; this build reads {FORMAT_WITHOUT_SEEN} and {FORMAT}"
            )));
        }
    }
    let sender = SegmentId(take_array(&mut input)?);
    let mut items = Vec::new();
    while !input.is_empty() {
        let length = take_varint(&mut input)?;
        let key = Bytes::copy_from_slice(take_slice(&mut input, length)?);
        let length = take_varint(&mut input)?;
        let mut rest = take_slice(&mut input, length)?;
        let value = |b: &[u8]| {
            let value: CatalogValue =
                serde_json::from_slice(b).map_err(|e| Error::damaged("a catalog cannot be read").because(e))?;
            let level = match &value {
                CatalogValue::Cluster { .. } => 1,
                CatalogValue::Tenant { .. } => 2,
                CatalogValue::Bucket { id, policy, origin, .. } => {
                    BucketId::from_hex(id)?;
                    origin.as_deref().map(SegmentId::from_hex).transpose()?;
                    policy.check()?;
                    3
                }
                CatalogValue::Seen { vector } => {
                    vector.parse::<VersionVector>()?;
                    6
                }
                CatalogValue::User { .. } | CatalogValue::Snapshot { .. } => 0,
            };
            if key.first() == Some(&level) {
                Ok(value)
            } else {
                Err(Error::damaged("a catalog has a thing out of place"))
            }
        };
        let register = Register::decode(&mut rest, &sender, value)?;
        if !rest.is_empty() || register.is_empty() {
            return Err(Error::damaged("a register of a catalog does not end where it should"));
        }
        items.push((key, register));
    }
    Ok(items)
}

/// For a fuzzer: whether `bytes` are an exported catalog.
pub fn check_catalog(bytes: &[u8]) -> Result<usize> {
    Ok(decode(bytes)?.len())
}
