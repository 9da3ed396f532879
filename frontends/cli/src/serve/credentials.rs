//! The first tenant and user, so that a new segment can be used at once.

use serde_json::{Value, json};
use tombolo_core::{ErrorKind, Result, Secret, Segment, TenantPath, UserInfo};

/// The keys of a user that was just made. They are printed once; only the segment keeps them.
pub(super) struct Credentials {
    user: UserInfo,
    secret: Secret,
}

/// Makes a user, and its tenant if it is not there, in the segment's own cluster if the segment has no user that S3 clients could be: on
/// the very first start as a rule, but also when that was cut off before the user was made, or when all users were deleted.
pub(super) async fn first(segment: &Segment, tenant: &str, user: &str) -> Result<Option<Credentials>> {
    let catalog = segment.catalog();
    for cluster in catalog.clusters().await? {
        for tenant in catalog.tenants(&cluster).await? {
            if !catalog.users(&tenant).await?.is_empty() {
                return Ok(None);
            }
        }
    }
    let tenant = TenantPath::new(segment.cluster(), tenant)?;
    match catalog.create_tenant(&tenant).await {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::Exists => {}
        Err(error) => return Err(error),
    }
    let (user, secret) = catalog.create_user(&tenant, user, None).await?;
    Ok(Some(Credentials { user, secret }))
}

impl Credentials {
    pub(super) fn json(&self) -> Value {
        json!({
            "tenant": self.user.tenant.to_string(),
            "user": self.user.name,
            "access_key": self.user.access_key,
            "secret_key": self.secret.0,
        })
    }

    /// What to paste into a shell.
    pub(super) fn text(&self, url: &str) -> String {
        format!(
            "\n\nUser {} of tenant {} was made. Its secret is not shown again.\n\n\
             export AWS_ACCESS_KEY_ID={}\n\
             export AWS_SECRET_ACCESS_KEY={}\n\
             export AWS_DEFAULT_REGION=us-east-1\n\
             export AWS_ENDPOINT_URL={url}\n\
             aws s3 mb s3://photos\n\
             aws s3 cp README.md s3://photos/\n\
             aws s3 ls s3://photos\n",
            self.user.name, self.user.tenant, self.user.access_key, self.secret.0
        )
    }
}
