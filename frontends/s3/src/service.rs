//! The operations that s3s may call, each handed to its noun's file. What is not here says NotImplemented.

use crate::after;
use crate::buckets::{missing, owner_grants};
use crate::listing::owner;
use crate::ops::{Operations, caller, version};
use async_trait::async_trait;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};

/// Makes the implementation from four tables: operations that a file of this crate carries out, those of them that change objects, operations that tell of
/// a configuration which no bucket has, and operations that answer as for a bucket nobody configured. (The whole `impl`
/// comes out of one macro because `async_trait` must see its functions.)
macro_rules! operations {
    (
        delegate { $($name:ident => $method:ident($input:ident) -> $output:ident;)* }
        write { $($write:ident => $write_method:ident($write_input:ident) -> $write_output:ident;)* }
        absent { $($absent:ident($absent_input:ident) -> $absent_output:ident: $error:ident;)* }
        default_answer { $($default:ident($default_input:ident) -> $default_output:ident: $value:expr;)* }
    ) => {
        #[async_trait]
        impl S3 for Operations {
            $(
                async fn $name(&self, req: S3Request<$input>) -> S3Result<S3Response<$output>> {
                    self.$method(req).await
                }
            )*
            $(
                async fn $write(&self, req: S3Request<$write_input>) -> S3Result<S3Response<$write_output>> {
                    let bucket = self.bucket(&req.extensions, &req.input.bucket).await;
                    let mut response = self.$write_method(req).await?;
                    if let Ok(bucket) = bucket {
                        response.headers.extend(after::token(&bucket).await);
                    }
                    Ok(response)
                }
            )*
            $(
                async fn $absent(&self, req: S3Request<$absent_input>) -> S3Result<S3Response<$absent_output>> {
                    Err(self.unconfigured(&req.extensions, &req.input.bucket, missing::$error()).await)
                }
            )*
            $(
                async fn $default(&self, req: S3Request<$default_input>) -> S3Result<S3Response<$default_output>> {
                    self.bucket(&req.extensions, &req.input.bucket).await?;
                    Ok(S3Response::new($value))
                }
            )*
        }
    };
}

operations! {
    delegate {
        create_bucket => create_bucket(CreateBucketInput) -> CreateBucketOutput;
        delete_bucket => delete_bucket(DeleteBucketInput) -> DeleteBucketOutput;
        head_bucket => head_bucket(HeadBucketInput) -> HeadBucketOutput;
        list_buckets => list_buckets(ListBucketsInput) -> ListBucketsOutput;
        get_bucket_versioning => versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput;
        put_bucket_versioning => put_versioning(PutBucketVersioningInput) -> PutBucketVersioningOutput;

        get_bucket_acl => bucket_acl(GetBucketAclInput) -> GetBucketAclOutput;
        get_object_acl => object_acl(GetObjectAclInput) -> GetObjectAclOutput;

        get_object => get(GetObjectInput) -> GetObjectOutput;
        head_object => head(HeadObjectInput) -> HeadObjectOutput;
        get_object_attributes => attributes(GetObjectAttributesInput) -> GetObjectAttributesOutput;
        get_object_tagging => tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput;

        list_objects => list(ListObjectsInput) -> ListObjectsOutput;
        list_objects_v2 => list_v2(ListObjectsV2Input) -> ListObjectsV2Output;
        list_object_versions => list_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput;

        create_multipart_upload => create_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput;
        upload_part => upload_part(UploadPartInput) -> UploadPartOutput;
        upload_part_copy => copy_part(UploadPartCopyInput) -> UploadPartCopyOutput;
        abort_multipart_upload => abort_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput;
        list_multipart_uploads => list_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput;
        list_parts => list_parts(ListPartsInput) -> ListPartsOutput;
    }

    write {
        put_object => put(PutObjectInput) -> PutObjectOutput;
        copy_object => copy(CopyObjectInput) -> CopyObjectOutput;
        delete_object => delete(DeleteObjectInput) -> DeleteObjectOutput;
        delete_objects => delete_many(DeleteObjectsInput) -> DeleteObjectsOutput;
        put_object_tagging => put_tagging(PutObjectTaggingInput) -> PutObjectTaggingOutput;
        delete_object_tagging => delete_tagging(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput;
        complete_multipart_upload => complete_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput;
    }

    absent {
        get_bucket_encryption(GetBucketEncryptionInput) -> GetBucketEncryptionOutput: encryption;
        get_bucket_policy(GetBucketPolicyInput) -> GetBucketPolicyOutput: policy;
        get_bucket_policy_status(GetBucketPolicyStatusInput) -> GetBucketPolicyStatusOutput: policy;
        get_bucket_cors(GetBucketCorsInput) -> GetBucketCorsOutput: cors;
        get_bucket_lifecycle_configuration(GetBucketLifecycleConfigurationInput) -> GetBucketLifecycleConfigurationOutput: lifecycle;
        get_bucket_tagging(GetBucketTaggingInput) -> GetBucketTaggingOutput: tagging;
        get_bucket_website(GetBucketWebsiteInput) -> GetBucketWebsiteOutput: website;
        get_bucket_replication(GetBucketReplicationInput) -> GetBucketReplicationOutput: replication;
        get_object_lock_configuration(GetObjectLockConfigurationInput) -> GetObjectLockConfigurationOutput: object_lock;
        get_public_access_block(GetPublicAccessBlockInput) -> GetPublicAccessBlockOutput: public_access_block;
        get_object_retention(GetObjectRetentionInput) -> GetObjectRetentionOutput: object_retention;
        get_object_legal_hold(GetObjectLegalHoldInput) -> GetObjectLegalHoldOutput: object_retention;
    }

    default_answer {
        get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput: GetBucketLocationOutput::default();
        get_bucket_accelerate_configuration(GetBucketAccelerateConfigurationInput) -> GetBucketAccelerateConfigurationOutput:
            GetBucketAccelerateConfigurationOutput::default();
        get_bucket_logging(GetBucketLoggingInput) -> GetBucketLoggingOutput: GetBucketLoggingOutput::default();
        get_bucket_notification_configuration(GetBucketNotificationConfigurationInput) -> GetBucketNotificationConfigurationOutput:
            GetBucketNotificationConfigurationOutput::default();
        get_bucket_request_payment(GetBucketRequestPaymentInput) -> GetBucketRequestPaymentOutput:
            GetBucketRequestPaymentOutput { payer: Some(Payer::from_static(Payer::BUCKET_OWNER)) };
        get_bucket_ownership_controls(GetBucketOwnershipControlsInput) -> GetBucketOwnershipControlsOutput:
            GetBucketOwnershipControlsOutput {
                ownership_controls: Some(OwnershipControls {
                    rules: vec![OwnershipControlsRule {
                        object_ownership: ObjectOwnership::from_static(ObjectOwnership::BUCKET_OWNER_ENFORCED),
                    }],
                }),
            };
    }
}

impl Operations {
    async fn bucket_acl(&self, req: S3Request<GetBucketAclInput>) -> S3Result<S3Response<GetBucketAclOutput>> {
        self.bucket(&req.extensions, &req.input.bucket).await?;
        let tenant = caller(&req.extensions)?.tenant();
        Ok(S3Response::new(GetBucketAclOutput { grants: Some(owner_grants(tenant)), owner: Some(owner(tenant)) }))
    }

    async fn object_acl(&self, req: S3Request<GetObjectAclInput>) -> S3Result<S3Response<GetObjectAclOutput>> {
        let bucket = self.bucket(&req.extensions, &req.input.bucket).await?;
        self.look(&bucket, &req.input.key, version(req.input.version_id.as_deref())?).await?;
        let tenant = caller(&req.extensions)?.tenant();
        Ok(S3Response::new(GetObjectAclOutput {
            grants: Some(owner_grants(tenant)),
            owner: Some(owner(tenant)),
            request_charged: None,
        }))
    }
}
