//! Who calls: access keys of the segment's users, each seeing its own tenant and nothing else.

use crate::errors::{from_engine, refuse};
use async_trait::async_trait;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Error, S3ErrorCode, S3Result};
use std::sync::Arc;
use tombolo_core::{Segment, TenantPath, UserInfo};

/// The authenticated user of a request, put into its extensions.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) Arc<UserInfo>);

impl Caller {
    pub(crate) fn tenant(&self) -> &TenantPath {
        &self.0.tenant
    }
}

/// The keys that this door takes.
#[derive(Clone)]
pub(crate) struct Keys {
    segment: Segment,
    tenant: Option<TenantPath>,
}

impl Keys {
    pub(crate) fn new(segment: &Segment, tenant: Option<TenantPath>) -> Keys {
        Keys { segment: segment.clone(), tenant }
    }

    /// The user and the secret of a key.
    ///
    /// # Errors
    /// `InvalidAccessKeyId`, also for keys of tenants that this door does not serve.
    pub(crate) async fn find(&self, access_key: &str) -> S3Result<(Caller, SecretKey)> {
        let found = self.segment.catalog().find_key(access_key).await.map_err(from_engine)?;
        let (user, secret) = found
            .filter(|(user, _)| self.tenant.as_ref().is_none_or(|only| *only == user.tenant))
            .ok_or_else(unknown_key)?;
        Ok((Caller(Arc::new(user)), SecretKey::from(secret.0)))
    }

    /// Lets an authenticated request in: who calls, once this segment has what the request says that it must see.
    pub(crate) async fn admit(&self, access_key: &str, headers: &http::HeaderMap) -> S3Result<Caller> {
        let (caller, _) = self.find(access_key).await?;
        check_owner(headers, caller.tenant())?;
        crate::after::wait(&self.segment, headers).await?;
        Ok(caller)
    }
}

fn unknown_key() -> S3Error {
    let message = "The AWS Access Key Id you provided does not exist in our records.";
    refuse(S3ErrorCode::InvalidAccessKeyId, message)
}

/// What anonymous callers get.
pub(crate) fn anonymous() -> S3Error {
    refuse(S3ErrorCode::AccessDenied, "Access Denied: requests must be signed")
}

/// Checks `x-amz-expected-bucket-owner`: a tenant is known as its name or as `cluster/tenant`.
pub(crate) fn check_owner(headers: &http::HeaderMap, tenant: &TenantPath) -> S3Result<()> {
    for name in ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"] {
        if let Some(owner) = headers.get(name)
            && owner.as_bytes() != tenant.tenant.as_bytes()
            && owner.as_bytes() != tenant.to_string().as_bytes()
        {
            return Err(refuse(S3ErrorCode::AccessDenied, "Access Denied: the bucket has another owner"));
        }
    }
    Ok(())
}

#[async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        Ok(self.find(access_key).await?.1)
    }
}

#[async_trait]
impl S3Access for Keys {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = context.credentials() else {
            return Err(anonymous());
        };
        let caller = self.admit(&credentials.access_key, context.headers()).await?;
        context.extensions_mut().insert(caller);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_owner_is_the_tenant() {
        let tenant = TenantPath::new("west", "lab").unwrap();
        let headers = |owner: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("x-amz-expected-bucket-owner", owner.parse().unwrap());
            headers
        };
        assert!(check_owner(&http::HeaderMap::new(), &tenant).is_ok());
        assert!(check_owner(&headers("lab"), &tenant).is_ok());
        assert!(check_owner(&headers("west/lab"), &tenant).is_ok());
        assert_eq!(check_owner(&headers("111122223333"), &tenant).unwrap_err().code(), &S3ErrorCode::AccessDenied);
    }
}
