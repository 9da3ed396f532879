//! Buckets: make, find, list, drop, versioning; and what S3 answers about configurations that a bucket does not have,
//! because clients ask before they work.

use crate::errors::{custom, from_engine, refuse};
use crate::listing::owner;
use crate::ops::{Operations, caller, check_features, is_s3_bucket_name};
use crate::time::timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use tombolo_core::{BucketPolicy, ConflictPolicy, TenantPath, Versioning};

/// What every bucket says about its place. Any region is accepted in signatures.
const REGION: &str = "us-east-1";
const BUCKETS_PAGE_MAX: i32 = 10_000;

impl Operations {
    pub(crate) async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        check_features(&req.headers)?;
        let name = req.input.bucket;
        if !is_s3_bucket_name(&name) {
            return Err(refuse(S3ErrorCode::InvalidBucketName, "The specified bucket is not valid."));
        }
        let path = caller(&req.extensions)?.tenant().bucket(&name).map_err(from_engine)?;
        // S3's clients expect one object under a key, and know older versions; conflict copies are for who looks into directories.
        let policy = BucketPolicy { conflicts: ConflictPolicy::LastWriterWins, ..BucketPolicy::default() };
        match self.segment.catalog().create_bucket(&path, policy).await {
            Ok(_) => Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{name}")) })),
            Err(error) if error.kind() == tombolo_core::ErrorKind::Exists => {
                let message = "Your previous request to create the named bucket succeeded and you already own it.";
                Err(refuse(S3ErrorCode::BucketAlreadyOwnedByYou, message))
            }
            Err(error) => Err(from_engine(error)),
        }
    }

    pub(crate) async fn delete_bucket(
        &self,
        req: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        let bucket = self.bucket(&req.extensions, &req.input.bucket).await?;
        match self.segment.catalog().delete_bucket(bucket.path()).await {
            Ok(()) => Ok(S3Response::new(DeleteBucketOutput {})),
            Err(error) if error.kind() == tombolo_core::ErrorKind::NotEmpty => {
                let message =
                    "The bucket you tried to delete is not empty. You must delete all versions in the bucket.";
                Err(refuse(S3ErrorCode::BucketNotEmpty, message))
            }
            Err(error) => Err(from_engine(error)),
        }
    }

    pub(crate) async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.bucket(&req.extensions, &req.input.bucket).await?;
        Ok(S3Response::new(HeadBucketOutput { bucket_region: Some(REGION.to_owned()), ..Default::default() }))
    }

    pub(crate) async fn list_buckets(
        &self,
        req: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let tenant = caller(&req.extensions)?.tenant().clone();
        let input = req.input;
        let max = input.max_buckets.unwrap_or(BUCKETS_PAGE_MAX);
        if !(1..=BUCKETS_PAGE_MAX).contains(&max) {
            let message = "max-buckets must be an integer between 1 and 10000";
            return Err(refuse(S3ErrorCode::InvalidArgument, message));
        }
        let after = input.continuation_token.as_deref().map(read_token).transpose()?;
        let mut all = self.segment.catalog().buckets(&tenant).await.map_err(from_engine)?;
        all.sort_by(|a, b| a.path.bucket.cmp(&b.path.bucket));
        let prefix = input.prefix.as_deref().unwrap_or("");
        let wanted = |name: &str| name.starts_with(prefix) && after.as_deref().is_none_or(|after| name > after);
        all.retain(|info| wanted(&info.path.bucket));
        let is_truncated = all.len() > usize::try_from(max).unwrap_or(usize::MAX);
        all.truncate(usize::try_from(max).unwrap_or(usize::MAX));
        let next = all.last().filter(|_| is_truncated).map(|info| URL_SAFE_NO_PAD.encode(&info.path.bucket));
        let buckets = all
            .into_iter()
            .map(|info| Bucket {
                bucket_region: None,
                creation_date: Some(timestamp(info.created_ns)),
                name: Some(info.path.bucket),
            })
            .collect();
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets),
            continuation_token: next,
            owner: Some(owner(&tenant)),
            prefix: input.prefix,
        }))
    }

    pub(crate) async fn versioning(
        &self,
        req: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let bucket = self.bucket(&req.extensions, &req.input.bucket).await?;
        let status = match bucket.info().await.map_err(from_engine)?.policy.versioning {
            Versioning::Off => None,
            Versioning::On => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
            Versioning::Suspended => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED)),
        };
        Ok(S3Response::new(GetBucketVersioningOutput { mfa_delete: None, status }))
    }

    pub(crate) async fn put_versioning(
        &self,
        req: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<S3Response<PutBucketVersioningOutput>> {
        let bucket = self.bucket(&req.extensions, &req.input.bucket).await?;
        let configuration = req.input.versioning_configuration;
        if configuration.mfa_delete.as_ref().is_some_and(|mfa| mfa.as_str() == MFADelete::ENABLED) {
            return Err(refuse(S3ErrorCode::NotImplemented, "MFA delete is not implemented"));
        }
        let versioning = match configuration.status.as_ref().map(|status| status.as_str()) {
            Some(BucketVersioningStatus::ENABLED) => Versioning::On,
            Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
            _ => {
                let message = "The Versioning element must be specified as Enabled or Suspended";
                return Err(refuse(S3ErrorCode::IllegalVersioningConfigurationException, message));
            }
        };
        let policy = bucket.info().await.map_err(from_engine)?.policy;
        if policy.versioning != versioning {
            let policy = BucketPolicy { versioning, ..policy };
            self.segment.catalog().set_policy(bucket.path(), policy).await.map_err(from_engine)?;
        }
        Ok(S3Response::new(PutBucketVersioningOutput::default()))
    }

    /// What S3 says about a configuration that the bucket does not have; `NoSuchBucket` if there is no bucket.
    pub(crate) async fn unconfigured(&self, extensions: &http::Extensions, bucket: &str, error: S3Error) -> S3Error {
        match self.bucket(extensions, bucket).await {
            Ok(_) => error,
            Err(missing) => missing,
        }
    }
}

fn read_token(token: &str) -> S3Result<String> {
    let name = URL_SAFE_NO_PAD.decode(token).ok().and_then(|name| String::from_utf8(name).ok());
    name.ok_or_else(|| refuse(S3ErrorCode::InvalidArgument, "The continuation token provided is incorrect"))
}

/// The grants of everything a tenant owns: the owner may do everything, nobody else anything.
pub(crate) fn owner_grants(tenant: &TenantPath) -> Vec<Grant> {
    let owner = owner(tenant);
    vec![Grant {
        grantee: Some(Grantee {
            display_name: owner.display_name,
            email_address: None,
            id: owner.id,
            type_: Type::from_static(Type::CANONICAL_USER),
            uri: None,
        }),
        permission: Some(Permission::from_static(Permission::FULL_CONTROL)),
    }]
}

/// The errors that say "this bucket has no such configuration".
pub(crate) mod missing {
    use super::*;

    pub(crate) fn encryption() -> S3Error {
        let message = "The server side encryption configuration was not found";
        custom("ServerSideEncryptionConfigurationNotFoundError", StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn policy() -> S3Error {
        refuse(S3ErrorCode::NoSuchBucketPolicy, "The bucket policy does not exist")
    }

    pub(crate) fn cors() -> S3Error {
        refuse(S3ErrorCode::NoSuchCORSConfiguration, "The CORS configuration does not exist")
    }

    pub(crate) fn lifecycle() -> S3Error {
        refuse(S3ErrorCode::NoSuchLifecycleConfiguration, "The lifecycle configuration does not exist")
    }

    pub(crate) fn tagging() -> S3Error {
        refuse(S3ErrorCode::NoSuchTagSet, "The TagSet does not exist")
    }

    pub(crate) fn website() -> S3Error {
        let message = "The specified bucket does not have a website configuration";
        refuse(S3ErrorCode::NoSuchWebsiteConfiguration, message)
    }

    pub(crate) fn object_lock() -> S3Error {
        let message = "Object Lock configuration does not exist for this bucket";
        refuse(S3ErrorCode::ObjectLockConfigurationNotFoundError, message)
    }

    pub(crate) fn object_retention() -> S3Error {
        let message = "The specified object does not have a ObjectLock configuration";
        refuse(S3ErrorCode::NoSuchObjectLockConfiguration, message)
    }

    pub(crate) fn public_access_block() -> S3Error {
        let message = "The public access block configuration was not found";
        custom("NoSuchPublicAccessBlockConfiguration", StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn replication() -> S3Error {
        let message = "The replication configuration was not found";
        refuse(S3ErrorCode::ReplicationConfigurationNotFoundError, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_configurations_are_not_found() {
        for (error, code) in [
            (missing::encryption(), "ServerSideEncryptionConfigurationNotFoundError"),
            (missing::policy(), "NoSuchBucketPolicy"),
            (missing::cors(), "NoSuchCORSConfiguration"),
            (missing::lifecycle(), "NoSuchLifecycleConfiguration"),
            (missing::tagging(), "NoSuchTagSet"),
            (missing::website(), "NoSuchWebsiteConfiguration"),
            (missing::object_lock(), "ObjectLockConfigurationNotFoundError"),
            (missing::object_retention(), "NoSuchObjectLockConfiguration"),
            (missing::public_access_block(), "NoSuchPublicAccessBlockConfiguration"),
            (missing::replication(), "ReplicationConfigurationNotFoundError"),
        ] {
            assert_eq!(error.code().as_str(), code);
            assert_eq!(error.status_code(), Some(StatusCode::NOT_FOUND), "{code}");
        }
    }

    #[test]
    fn the_owner_may_do_everything() {
        let grants = owner_grants(&TenantPath::new("west", "lab").unwrap());
        assert_eq!(grants.len(), 1);
        assert_eq!(grants[0].permission.as_ref().unwrap().as_str(), "FULL_CONTROL");
        assert_eq!(grants[0].grantee.as_ref().unwrap().id.as_deref(), Some("west/lab"));
    }
}
