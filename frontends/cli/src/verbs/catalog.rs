//! `cluster`, `tenant` and `bucket`

use super::{Session, place};
use crate::arguments::{BucketVerb, ClusterVerb, TenantVerb};
use crate::failure::Outcome;
use crate::output::{bucket_json, user_json};
use crate::quantity::{short_time, size};
use crate::wire::{BucketRecord, Operation, UserRecord};
use serde_json::json;
use std::ffi::OsStr;
use tombolo_core::{Error, Result, Subject};

pub(super) async fn cluster(session: &mut Session, verb: ClusterVerb) -> Outcome {
    match verb {
        ClusterVerb::Create { cluster } => {
            let cluster = place(&cluster)?.cluster()?;
            session.call::<()>(Operation::CreateCluster { cluster: cluster.clone() }).await?;
            session.output.answer(json!({ "cluster": cluster }), "")
        }
        ClusterVerb::List => clusters(session).await,
        ClusterVerb::Show { cluster } => show_cluster(session, &place(&cluster)?.cluster()?).await,
        ClusterVerb::Delete { cluster } => {
            let cluster = place(&cluster)?.cluster()?;
            session.call::<()>(Operation::DeleteCluster { cluster: cluster.clone() }).await?;
            session.output.answer(json!({ "cluster": cluster, "deleted": true }), "")
        }
    }
}

pub(super) async fn tenant(session: &mut Session, verb: TenantVerb) -> Outcome {
    let name = |argument: &OsStr| -> Result<String> { Ok(place(argument)?.tenant()?.to_string()) };
    match verb {
        TenantVerb::Create { tenant } => {
            let tenant = name(&tenant)?;
            session.call::<()>(Operation::CreateTenant { tenant: tenant.clone() }).await?;
            session.output.answer(json!({ "tenant": tenant }), "")
        }
        TenantVerb::List { cluster } => tenants(session, &place(&cluster)?.cluster()?).await,
        TenantVerb::Show { tenant } => show_tenant(session, &name(&tenant)?).await,
        TenantVerb::Delete { tenant } => {
            let tenant = name(&tenant)?;
            session.call::<()>(Operation::DeleteTenant { tenant: tenant.clone() }).await?;
            session.output.answer(json!({ "tenant": tenant, "deleted": true }), "")
        }
    }
}

pub(super) async fn bucket(session: &mut Session, verb: BucketVerb) -> Outcome {
    let name = |argument: &OsStr| -> Result<String> { Ok(place(argument)?.bucket()?.to_string()) };
    match verb {
        BucketVerb::Create { bucket, set } => {
            let bucket = name(&bucket)?;
            let record: BucketRecord = session.call(Operation::CreateBucket { bucket, set }).await?;
            session.output.answer(bucket_json(&record), "")
        }
        BucketVerb::List { tenant } => buckets(session, &place(&tenant)?.tenant()?.to_string()).await,
        BucketVerb::Show { bucket } => show_bucket(session, &name(&bucket)?).await,
        BucketVerb::Set { bucket, values, set } => {
            let set = values.into_iter().chain(set).collect();
            let record: BucketRecord = session.call(Operation::SetBucket { bucket: name(&bucket)?, set }).await?;
            session.output.answer(bucket_json(&record), "")
        }
        BucketVerb::Delete { bucket } => {
            let bucket = name(&bucket)?;
            session.call::<()>(Operation::DeleteBucket { bucket: bucket.clone() }).await?;
            session.output.answer(json!({ "bucket": bucket, "deleted": true }), "")
        }
    }
}

/// Lists all clusters.
pub(super) async fn clusters(session: &mut Session) -> Outcome {
    let clusters: Vec<String> = session.call(Operation::Clusters).await?;
    let rows = clusters.into_iter().map(|name| (json!({ "name": name, "path": name }), vec![name])).collect();
    session.output.table(&["CLUSTER"], rows)
}

/// Lists the tenants of a cluster, which must exist.
pub(super) async fn tenants(session: &mut Session, cluster: &str) -> Outcome {
    let tenants = tenants_of(session, cluster).await?;
    let row = |name: String| (json!({ "name": name, "path": format!("{cluster}/{name}") }), vec![name]);
    session.output.table(&["TENANT"], tenants.into_iter().map(row).collect())
}

/// Lists the buckets of a tenant, which must exist.
pub(super) async fn buckets(session: &mut Session, tenant: &str) -> Outcome {
    let buckets = buckets_of(session, tenant).await?;
    let row = |record: BucketRecord| {
        let name = record.path.rsplit('/').next().unwrap_or_default().to_string();
        let versioning = json!(record.policy.versioning).as_str().unwrap_or_default().to_string();
        (bucket_json(&record), vec![name, short_time(record.created_ns), versioning])
    };
    session.output.table(&["BUCKET", "CREATED (UTC)", "VERSIONING"], buckets.into_iter().map(row).collect())
}

pub(super) async fn show_cluster(session: &mut Session, cluster: &str) -> Outcome {
    let tenants = tenants_of(session, cluster).await?;
    let text = format!("Cluster   {cluster}\nTenants   {}", list_or_none(&tenants));
    session.output.answer(json!({ "name": cluster, "path": cluster, "tenants": tenants }), &text)
}

pub(super) async fn show_tenant(session: &mut Session, tenant: &str) -> Outcome {
    let buckets = buckets_of(session, tenant).await?;
    let users: Vec<UserRecord> = session.call(Operation::Users { tenant: tenant.into() }).await?;
    let names: Vec<_> = buckets.iter().filter_map(|bucket| bucket.path.rsplit('/').next()).collect();
    let user_names: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
    let text =
        format!("Tenant    {tenant}\nBuckets   {}\nUsers     {}", list_or_none(&names), list_or_none(&user_names));
    let users: Vec<_> = users.iter().map(user_json).collect();
    let name = tenant.rsplit('/').next().unwrap_or_default();
    session.output.answer(json!({ "name": name, "path": tenant, "buckets": names, "users": users }), &text)
}

pub(super) async fn show_bucket(session: &mut Session, bucket: &str) -> Outcome {
    let record: BucketRecord = session.call(Operation::Bucket { bucket: bucket.into() }).await?;
    let json = bucket_json(&record);
    let usage = record.usage.unwrap_or_default();
    let mut text = format!(
        "Bucket         {}\nCreated        {} UTC\nObjects        {}\nSize           {}\nOld versions   {} ({})",
        record.path,
        short_time(record.created_ns),
        usage.objects,
        size(usage.logical_bytes),
        usage.old_versions,
        size(usage.old_bytes),
    );
    if let Some(policy) = json.get("policy").and_then(|policy| policy.as_object()) {
        for (key, value) in policy {
            let value = match value {
                serde_json::Value::Null => "none".into(),
                serde_json::Value::String(word) => word.clone(),
                other => other.to_string(),
            };
            text.push_str(&format!("\n{key:<14} {value}"));
        }
    }
    session.output.answer(json, &text)
}

async fn tenants_of(session: &Session, cluster: &str) -> Result<Vec<String>> {
    let tenants: Vec<String> = session.call(Operation::Tenants { cluster: cluster.into() }).await?;
    if tenants.is_empty() {
        let clusters: Vec<String> = session.call(Operation::Clusters).await?;
        if !clusters.iter().any(|name| name == cluster) {
            return Err(Error::not_found(Subject::Cluster, format!("there is no cluster '{cluster}'")));
        }
    }
    Ok(tenants)
}

async fn buckets_of(session: &Session, tenant: &str) -> Result<Vec<BucketRecord>> {
    let buckets: Vec<BucketRecord> = session.call(Operation::Buckets { tenant: tenant.into() }).await?;
    if let (true, Some((cluster, name))) = (buckets.is_empty(), tenant.split_once('/'))
        && !tenants_of(session, cluster).await?.iter().any(|other| other == name)
    {
        return Err(Error::not_found(Subject::Tenant, format!("there is no tenant '{tenant}'")));
    }
    Ok(buckets)
}

fn list_or_none(names: &[impl AsRef<str>]) -> String {
    if names.is_empty() {
        return "none".into();
    }
    names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
}
