//! Clusters, tenants, buckets and users.

use super::buried::{Buried, bury, dig_up};
use super::catalog_sync::CATALOG_ID;
use super::segment::{Segment, number_row, shared_row};
use super::{Bucket, transact};
use crate::catalog::{self, CatalogRow, CatalogValue};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::id::{BucketId, SegmentId};
use crate::kv::{KeyRange, Space};
use crate::namespace::keys::{self, BucketNumber};
use crate::namespace::{self, Txn};
use crate::object::{BucketInfo, Secret, UserInfo};
use crate::path::{BucketPath, TenantPath, check_name};
use crate::policy::{BucketPolicy, SetTimes};
use crate::register::{Dot, Write};
use async_recursion::async_recursion as boxed;
use bytes::Bytes;

/// Clusters, tenants, buckets and users of a segment.
#[derive(Clone)]
pub struct Catalog(pub(super) Segment);

/// The row of [`Space::Meta`] with the next bucket's number.
const NEXT_BUCKET_ROW: &[u8] = b"next-bucket";
/// The longest access key and user name, in bytes.
const USER_BYTES_MAX: usize = 128;

fn key_row(access_key: &str) -> Bytes {
    let mut key = b"\0\0\0\0k".to_vec();
    key.extend_from_slice(access_key.as_bytes());
    key.into()
}

impl Catalog {
    /// Makes a cluster.
    pub async fn create_cluster(&self, cluster: &str) -> Result<()> {
        check_name(cluster)?;
        let created_ns = self.0.now_ns();
        transact!(self.0, txn, {
            create(
                &mut txn,
                catalog::cluster_key(cluster),
                CatalogValue::Cluster { created_ns },
                Subject::Cluster,
                cluster,
            )
            .await?
        })?;
        Ok(())
    }

    /// Removes an empty cluster.
    pub async fn delete_cluster(&self, cluster: &str) -> Result<()> {
        transact!(self.0, txn, {
            require_empty(&mut txn, &[catalog::level_prefix(2, &[cluster])], Subject::Cluster, cluster).await?;
            remove(&mut txn, catalog::cluster_key(cluster), Subject::Cluster, cluster).await?
        })?;
        Ok(())
    }

    /// All clusters, by name.
    pub async fn clusters(&self) -> Result<Vec<String>> {
        Ok(self
            .rows(catalog::level_prefix(1, &[]))
            .await?
            .into_iter()
            .filter_map(|(names, _)| names.into_iter().next())
            .collect())
    }

    /// Makes a tenant; its cluster must exist.
    pub async fn create_tenant(&self, tenant: &TenantPath) -> Result<()> {
        let created_ns = self.0.now_ns();
        transact!(self.0, txn, {
            require(&mut txn, catalog::cluster_key(&tenant.cluster), Subject::Cluster, &tenant.cluster).await?;
            let (key, value) = (catalog::tenant_key(tenant), CatalogValue::Tenant { created_ns });
            create(&mut txn, key, value, Subject::Tenant, &tenant.to_string()).await?
        })?;
        Ok(())
    }

    /// Removes a tenant without buckets and users.
    pub async fn delete_tenant(&self, tenant: &TenantPath) -> Result<()> {
        let below = [3, 4].map(|level| catalog::level_prefix(level, &[&tenant.cluster, &tenant.tenant]));
        transact!(self.0, txn, {
            require_empty(&mut txn, &below, Subject::Tenant, &tenant.to_string()).await?;
            remove(&mut txn, catalog::tenant_key(tenant), Subject::Tenant, &tenant.to_string()).await?
        })?;
        Ok(())
    }

    /// A cluster's tenants, by name.
    pub async fn tenants(&self, cluster: &str) -> Result<Vec<TenantPath>> {
        self.require_now(catalog::cluster_key(cluster), Subject::Cluster, cluster).await?;
        let rows = self.rows(catalog::level_prefix(2, &[cluster])).await?;
        rows.into_iter()
            .filter_map(|(names, _)| names.into_iter().nth(1))
            .map(|name| TenantPath::new(cluster, &name))
            .collect()
    }

    /// Makes a bucket; its tenant must exist.
    pub async fn create_bucket(&self, path: &BucketPath, policy: BucketPolicy) -> Result<Bucket> {
        policy.check()?;
        let created_ns = self.0.now_ns();
        transact!(self.0, txn, {
            require(&mut txn, catalog::tenant_key(&path.tenant), Subject::Tenant, &path.tenant.to_string()).await?;
            let key = catalog::bucket_key(path);
            let mut id = {
                let row = txn.catalog(key.clone()).await?;
                bucket_id(path, &row.register.dots())
            };
            // Where tombstones are not kept, an earlier bucket of this path may have had the id; its rows may still be on their way out.
            while txn.read(Space::Meta, &number_row(&id)).await?.is_some() {
                id = BucketId(first_16(blake3::hash(&id.0)));
            }
            give_number(&mut txn, &id).await?;
            let origin = Some(self.0.id().to_string());
            let value = CatalogValue::Bucket {
                id: id.to_string(),
                created_ns,
                policy: policy.clone(),
                origin,
                set: SetTimes::new(),
            };
            create(&mut txn, key, value, Subject::Bucket, &path.to_string()).await?
        })?;
        self.0.bucket(path).await
    }

    /// Removes a bucket; [`ErrorKind::NotEmpty`] while it holds an object, a kept version, a snapshot or an upload.
    pub async fn delete_bucket(&self, path: &BucketPath) -> Result<()> {
        let state = self.0.bucket_state(path).await?;
        transact!(self.0, txn, {
            if self.holds_something(&mut txn, &state.id, state.number).await? {
                return Err(
                    Error::new(ErrorKind::NotEmpty, format!("the bucket {path} is not empty")).about(Subject::Bucket)
                );
            }
            let (key, seen) = (catalog::bucket_key(path), namespace::told_in(&mut txn, state.number).await?);
            take_number(&mut txn, &state.id, Buried::new(state.number, &state.id, &seen).at(path)).await?;
            if txn.read(Space::Meta, &shared_row(&CATALOG_ID)).await?.is_some() {
                // Whoever hears of this before the deletions of what was in the bucket can tell that they are on their way.
                let known = CatalogValue::Seen { vector: seen.to_string() };
                write(&mut txn, catalog::seen_key(path, &state.id), Some(known)).await?;
            }
            remove(&mut txn, key, Subject::Bucket, &path.to_string()).await?
        })?;
        state.set_deleted();
        self.0.0.buckets.write().remove(path);
        self.settle_buried(state.number).await
    }

    /// Whether a bucket can't go: it holds an object, a kept version, a snapshot or an upload.
    pub(super) async fn holds_something(&self, txn: &mut Txn, id: &BucketId, number: BucketNumber) -> Result<bool> {
        Ok(self.has_content(txn, number) || self.has_by_itself(id, number).await?)
    }

    /// Whether there is an object or a kept version.
    pub(super) fn has_content(&self, txn: &mut Txn, number: BucketNumber) -> bool {
        // Whatever is written later touches a directory, and every first entry of a bucket touches the root.
        txn.watch(Space::Derived, &keys::directory_time(number, &crate::NodeId::ROOT));
        self.0.ledger().usage(number) != Default::default()
    }

    /// Whether there is a snapshot or an upload, of which no other segment knows.
    pub(super) async fn has_by_itself(&self, id: &BucketId, number: BucketNumber) -> Result<bool> {
        let view = self.0.store().snapshot().await?;
        let uploads = view.scan(Space::Uploads, KeyRange::prefix(&keys::bucket_prefix(number)), 1, false).await?;
        let snapshots = KeyRange::prefix(&catalog::level_prefix(5, &[&id.to_string()]));
        let snapshots = view.scan(Space::Catalog, snapshots, 1, false).await?;
        Ok(!uploads.rows.is_empty() || !snapshots.rows.is_empty())
    }

    /// A tenant's buckets, by name.
    pub async fn buckets(&self, tenant: &TenantPath) -> Result<Vec<BucketInfo>> {
        self.require_now(catalog::tenant_key(tenant), Subject::Tenant, &tenant.to_string()).await?;
        let rows = self.rows(catalog::level_prefix(3, &[&tenant.cluster, &tenant.tenant])).await?;
        let mut buckets = Vec::new();
        for (names, value) in rows {
            if let (Some(name), CatalogValue::Bucket { id, created_ns, policy, .. }) = (names.get(2), value) {
                buckets.push(BucketInfo {
                    path: tenant.bucket(name)?,
                    id: BucketId::from_hex(&id)?,
                    created_ns,
                    policy,
                });
            }
        }
        Ok(buckets)
    }

    /// Replaces a bucket's policy. Versioning can't go back to [`Versioning::Off`](crate::Versioning::Off) once it was on.
    pub async fn set_policy(&self, path: &BucketPath, policy: BucketPolicy) -> Result<()> {
        policy.check()?;
        let state = self.0.bucket_state(path).await?;
        let (origin, _) = transact!(self.0, txn, {
            let key = catalog::bucket_key(path);
            let old = txn.catalog(key.clone()).await?.register.value().cloned();
            let Some(CatalogValue::Bucket { id, created_ns, policy: old, origin, mut set }) = old else {
                return Err(Error::not_found(Subject::Bucket, format!("there is no bucket {path}")));
            };
            if policy.versioning == crate::Versioning::Off && old.versioning != crate::Versioning::Off {
                return Err(Error::invalid("versioning can be suspended, but not turned off once it was on"));
            }
            let made_at = origin.as_deref().map(SegmentId::from_hex).transpose()?;
            // Later than all that has been set, whatever the clock says.
            let latest_ns = set.values().copied().max().unwrap_or(created_ns);
            let set_ns = self.0.now_ns().max(latest_ns.saturating_add(1));
            set.extend(policy.differing(&old)?.into_iter().map(|name| (name, set_ns)));
            let value = CatalogValue::Bucket { id, created_ns, policy: policy.clone(), origin, set };
            write(&mut txn, key, Some(value)).await?;
            made_at
        })?;
        super::Bucket::new(self.0.clone(), state).follow_policy(policy, origin).await
    }

    /// Makes a user; keys that are not given are generated. Access keys are unique in the segment.
    pub async fn create_user(
        &self,
        tenant: &TenantPath,
        name: &str,
        keys: Option<(String, Secret)>,
    ) -> Result<(UserInfo, Secret)> {
        check_name(name)?;
        let (access_key, secret) = match keys {
            Some(keys) => keys,
            None => self.generate(),
        };
        let fits =
            |text: &str| (1..=USER_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| matches!(b, b' '..=b'~'));
        if !fits(&access_key) || !fits(&secret.0) || access_key.contains(['/', ' ']) {
            return Err(Error::invalid(format!(
                "keys have 1 to {USER_BYTES_MAX} printable ASCII characters, access keys no '/' and no space"
            )));
        }
        let created_ns = self.0.now_ns();
        transact!(self.0, txn, {
            require(&mut txn, catalog::tenant_key(tenant), Subject::Tenant, &tenant.to_string()).await?;
            if txn.read(Space::Derived, &key_row(&access_key)).await?.is_some() {
                return Err(Error::exists(Subject::User, format!("the access key '{access_key}' is taken")));
            }
            txn.put(Space::Derived, key_row(&access_key), catalog::user_key(tenant, name));
            let value = CatalogValue::User { access_key: access_key.clone(), secret_key: secret.0.clone(), created_ns };
            create(&mut txn, catalog::user_key(tenant, name), value, Subject::User, &format!("{tenant} {name}")).await?
        })?;
        Ok((UserInfo { tenant: tenant.clone(), name: name.to_owned(), access_key, created_ns }, secret))
    }

    /// 20 letters and digits, and 40 of them.
    fn generate(&self) -> (String, Secret) {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let text = |bytes: &[u8]| {
            bytes.iter().filter_map(|b| LETTERS.get(usize::from(b % 32))).map(|b| *b as char).collect::<String>()
        };
        (
            format!("TB{}", text(&self.0.0.environment.random::<18>())),
            Secret(text(&self.0.0.environment.random::<40>())),
        )
    }

    /// Removes a user; the keys stop working at once.
    pub async fn delete_user(&self, tenant: &TenantPath, name: &str) -> Result<()> {
        let (access_key, _) = transact!(self.0, txn, {
            let key = catalog::user_key(tenant, name);
            let Some(CatalogValue::User { access_key, .. }) = txn.catalog(key.clone()).await?.register.value().cloned()
            else {
                return Err(Error::not_found(Subject::User, format!("{tenant} has no user '{name}'")));
            };
            txn.delete(Space::Derived, key_row(&access_key));
            write(&mut txn, key, None).await?;
            access_key
        })?;
        self.0.0.keys.write().remove(&access_key);
        Ok(())
    }

    /// A tenant's users, by name.
    pub async fn users(&self, tenant: &TenantPath) -> Result<Vec<UserInfo>> {
        self.require_now(catalog::tenant_key(tenant), Subject::Tenant, &tenant.to_string()).await?;
        let rows = self.rows(catalog::level_prefix(4, &[&tenant.cluster, &tenant.tenant])).await?;
        Ok(rows
            .into_iter()
            .filter_map(|(names, value)| match (names.into_iter().nth(2), value) {
                (Some(name), CatalogValue::User { access_key, created_ns, .. }) => {
                    Some(UserInfo { tenant: tenant.clone(), name, access_key, created_ns })
                }
                _ => None,
            })
            .collect())
    }

    /// The user of an access key and the secret, for doors that authenticate.
    pub async fn find_key(&self, access_key: &str) -> Result<Option<(UserInfo, Secret)>> {
        if let Some(found) = self.0.0.keys.read().get(access_key) {
            return Ok(Some(found.clone()));
        }
        if access_key.len() > USER_BYTES_MAX {
            return Ok(None);
        }
        let Some(user) = self.0.store().get(Space::Derived, &key_row(access_key)).await? else {
            return Ok(None);
        };
        let Some(row) = self.0.store().get(Space::Catalog, &user).await? else {
            return Ok(None);
        };
        let row = CatalogRow::decode(row, &self.0.id())?;
        let names = catalog::names(&user);
        let (Some(CatalogValue::User { access_key: found, secret_key, created_ns }), [cluster, tenant, name]) =
            (row.register.value(), names.as_slice())
        else {
            return Ok(None);
        };
        if found != access_key {
            return Ok(None);
        }
        let info = UserInfo {
            tenant: TenantPath::new(cluster, tenant)?,
            name: name.clone(),
            access_key: found.clone(),
            created_ns: *created_ns,
        };
        let found = (info, Secret(secret_key.clone()));
        let mut keys = self.0.0.keys.write();
        if keys.len() >= 10_000 {
            keys.clear();
        }
        keys.insert(access_key.to_owned(), found.clone());
        Ok(Some(found))
    }

    async fn require_now(&self, key: Bytes, subject: Subject, name: &str) -> Result<()> {
        let row = self.0.store().get(Space::Catalog, &key).await?;
        let value = row.map(|r| CatalogRow::decode(r, &self.0.id())).transpose()?;
        if value.is_none_or(|r| r.register.is_tombstone_only()) {
            return Err(missing(subject, name));
        }
        Ok(())
    }

    /// What is live under `prefix`: names and values.
    pub(super) async fn rows(&self, prefix: Bytes) -> Result<Vec<(Vec<String>, CatalogValue)>> {
        let view = self.0.store().snapshot().await?;
        let mut range = KeyRange::prefix(&prefix);
        let mut out = Vec::new();
        loop {
            let page = view.scan(Space::Catalog, range, 1000, false).await?;
            for (key, row) in &page.rows {
                let row = CatalogRow::decode(row.clone(), &self.0.id())?;
                if let Some(value) = row.register.value() {
                    out.push((catalog::names(key), value.clone()));
                }
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = KeyRange::prefix_after(&prefix, last.clone()),
                _ => return Ok(out),
            }
        }
    }
}

fn missing(subject: Subject, name: &str) -> Error {
    let what = format!("{subject:?}").to_lowercase();
    Error::not_found(subject, format!("there is no {what} '{name}'"))
}

fn first_16(hash: blake3::Hash) -> [u8; 16] {
    let mut out = [0; 16];
    out.iter_mut().zip(hash.as_bytes()).for_each(|(o, h)| *o = *h);
    out
}

/// A bucket's id: the same on every segment that makes it, another one when it was deleted before.
fn bucket_id(path: &BucketPath, replaces: &[Dot]) -> BucketId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"tombolo bucket\0");
    hasher.update(path.to_string().as_bytes());
    for dot in replaces {
        hasher.update(&dot.segment.0);
        hasher.update(&dot.sequence.to_be_bytes());
    }
    BucketId(first_16(hasher.finalize()))
}

/// Takes a bucket's number away; [`Catalog::settle_buried`] is to follow.
pub(super) async fn take_number(txn: &mut Txn, id: &BucketId, buried: Buried) -> Result<()> {
    let is_shared = txn.read(Space::Meta, &shared_row(id)).await?.is_some();
    bury(txn, buried, is_shared);
    Ok(())
}

/// Gives a bucket its number in this segment: the one that it had, if all it had is still here.
#[boxed]
pub(super) async fn give_number(txn: &mut Txn, id: &BucketId) -> Result<()> {
    if dig_up(txn, id).await? {
        return Ok(());
    }
    let number = match txn.read(Space::Meta, NEXT_BUCKET_ROW).await? {
        Some(row) => row
            .as_ref()
            .try_into()
            .map(u32::from_be_bytes)
            .map_err(|_| Error::damaged("the next bucket's number can't be read"))?,
        None => keys::CATALOG + 1,
    };
    txn.put(Space::Meta, Bytes::from_static(NEXT_BUCKET_ROW), (number + 1).to_be_bytes().to_vec());
    txn.put(Space::Meta, number_row(id).into(), number.to_be_bytes().to_vec());
    namespace::take_up(txn, number, id).await
}

/// Writes a register of the catalog. `None` removes it: with a tombstone if another segment may have seen it.
pub(super) async fn write(txn: &mut Txn, key: Bytes, value: Option<CatalogValue>) -> Result<()> {
    let travels = matches!(key.first(), Some(1..=3 | 6));
    let is_shared = travels && txn.read(Space::Meta, &shared_row(&CATALOG_ID)).await?.is_some();
    if value.is_none() && !is_shared {
        txn.edit_catalog(key).await?.register = Default::default();
        return Ok(());
    }
    let (dot, own) = (txn.dot(), *txn.own());
    let row = txn.edit_catalog(key).await?;
    let replaced = row.register.dots();
    row.register.local_write(Write::pending(dot.slot().unwrap_or_default(), own, value), &replaced);
    Ok(())
}

#[boxed]
pub(super) async fn create(txn: &mut Txn, key: Bytes, value: CatalogValue, subject: Subject, name: &str) -> Result<()> {
    if txn.catalog(key.clone()).await?.register.value().is_some() {
        let what = format!("{subject:?}").to_lowercase();
        return Err(Error::exists(subject, format!("the {what} '{name}' exists")));
    }
    write(txn, key, Some(value)).await
}

async fn require(txn: &mut Txn, key: Bytes, subject: Subject, name: &str) -> Result<()> {
    if txn.catalog(key).await?.register.is_tombstone_only() {
        return Err(missing(subject, name));
    }
    Ok(())
}

pub(super) async fn remove(txn: &mut Txn, key: Bytes, subject: Subject, name: &str) -> Result<()> {
    require(txn, key.clone(), subject, name).await?;
    write(txn, key, None).await
}

async fn require_empty(txn: &mut Txn, below: &[Bytes], subject: Subject, name: &str) -> Result<()> {
    for prefix in below {
        if has_live(txn, prefix).await? {
            let what = format!("{subject:?}").to_lowercase();
            return Err(Error::new(ErrorKind::NotEmpty, format!("the {what} '{name}' is not empty")).about(subject));
        }
    }
    Ok(())
}

/// Whether anything under `prefix` is not a tombstone.
pub(super) async fn has_live(txn: &mut Txn, prefix: &Bytes) -> Result<bool> {
    let view = txn.ledger().store().snapshot().await?;
    let mut range = KeyRange::prefix(prefix);
    loop {
        let page = view.scan(Space::Catalog, range, 100, false).await?;
        for (key, _) in &page.rows {
            if txn.catalog(key.clone()).await?.register.value().is_some() {
                return Ok(true);
            }
        }
        match page.rows.last() {
            Some((last, _)) if page.more => range = KeyRange::prefix_after(prefix, last.clone()),
            _ => return Ok(false),
        }
    }
}
