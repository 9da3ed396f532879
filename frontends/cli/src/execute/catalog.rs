//! Clusters, tenants, buckets and users.

use super::{open, out_of_place};
use crate::wire::{BucketRecord, Operation, SecretText, UserRecord, encode};
use bytes::Bytes;
use tombolo_core::{BucketPath, BucketPolicy, Result, Secret, Segment, TenantPath};

pub(super) async fn execute(segment: &Segment, operation: Operation) -> Result<Bytes> {
    let catalog = segment.catalog();
    match operation {
        Operation::CreateCluster { cluster } => encode(&catalog.create_cluster(&cluster).await?),
        Operation::DeleteCluster { cluster } => encode(&catalog.delete_cluster(&cluster).await?),
        Operation::Clusters => encode(&catalog.clusters().await?),
        Operation::CreateTenant { tenant } => encode(&catalog.create_tenant(&tenant.parse()?).await?),
        Operation::DeleteTenant { tenant } => encode(&catalog.delete_tenant(&tenant.parse()?).await?),
        Operation::Tenants { cluster } => {
            let tenants = catalog.tenants(&cluster).await?;
            encode(&tenants.into_iter().map(|tenant| tenant.tenant).collect::<Vec<_>>())
        }
        Operation::CreateBucket { bucket, set } => {
            let policy = changed(BucketPolicy::default(), &set)?;
            let bucket = catalog.create_bucket(&bucket.parse()?, policy).await?;
            encode(&BucketRecord::from(bucket.info().await?))
        }
        Operation::DeleteBucket { bucket } => encode(&catalog.delete_bucket(&bucket.parse()?).await?),
        Operation::Buckets { tenant } => {
            let buckets = catalog.buckets(&tenant.parse()?).await?;
            encode(&buckets.into_iter().map(BucketRecord::from).collect::<Vec<_>>())
        }
        Operation::Bucket { bucket } => {
            let bucket = open(segment, &bucket).await?;
            let mut record = BucketRecord::from(bucket.info().await?);
            record.usage = Some(bucket.usage().await?.into());
            encode(&record)
        }
        Operation::SetBucket { bucket, set } => {
            let path: BucketPath = bucket.parse()?;
            let policy = changed(segment.bucket(&path).await?.info().await?.policy, &set)?;
            catalog.set_policy(&path, policy).await?;
            encode(&BucketRecord::from(segment.bucket(&path).await?.info().await?))
        }
        Operation::CreateUser { tenant, name, keys } => {
            let tenant: TenantPath = tenant.parse()?;
            let keys = keys.map(|(access, secret)| (access, Secret(secret.0)));
            let (user, secret) = catalog.create_user(&tenant, &name, keys).await?;
            let mut record = UserRecord::from(user);
            record.secret_key = Some(SecretText(secret.0));
            encode(&record)
        }
        Operation::DeleteUser { tenant, name } => encode(&catalog.delete_user(&tenant.parse()?, &name).await?),
        Operation::Users { tenant } => {
            let users = catalog.users(&tenant.parse()?).await?;
            encode(&users.into_iter().map(UserRecord::from).collect::<Vec<_>>())
        }
        other => Err(out_of_place(&other)),
    }
}

fn changed(mut policy: BucketPolicy, set: &[(String, String)]) -> Result<BucketPolicy> {
    for (key, value) in set {
        policy.set(key, value)?;
    }
    policy.check()?;
    Ok(policy)
}
