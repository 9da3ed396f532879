//! `user`

use super::{Session, place};
use crate::arguments::UserVerb;
use crate::failure::Outcome;
use crate::output::user_json;
use crate::quantity::short_time;
use crate::wire::{Operation, SecretText, UserRecord};
use serde_json::json;

pub(super) async fn user(session: &mut Session, verb: UserVerb) -> Outcome {
    match verb {
        UserVerb::Create { tenant, name, access_key, secret_key } => {
            let tenant = place(&tenant)?.tenant()?.to_string();
            // The secret alone may come from an environment meant for another command.
            let keys = access_key.zip(secret_key.map(SecretText));
            let user: UserRecord = session.call(Operation::CreateUser { tenant, name, keys }).await?;
            let secret = user.secret_key.as_ref().map_or("", |secret| secret.0.as_str());
            let text = format!(
                "User         {} of {}\nAccess key   {}\nSecret key   {secret}\nThe secret is not shown again.",
                user.name, user.tenant, user.access_key
            );
            session.output.answer(user_json(&user), &text)
        }
        UserVerb::List { tenant } => {
            let tenant = place(&tenant)?.tenant()?.to_string();
            let users: Vec<UserRecord> = session.call(Operation::Users { tenant }).await?;
            let rows = users.iter().map(|user| {
                (user_json(user), vec![user.name.clone(), user.access_key.clone(), short_time(user.created_ns)])
            });
            session.output.table(&["USER", "ACCESS KEY", "CREATED (UTC)"], rows.collect())
        }
        UserVerb::Delete { tenant, name } => {
            let tenant = place(&tenant)?.tenant()?.to_string();
            session.call::<()>(Operation::DeleteUser { tenant: tenant.clone(), name: name.clone() }).await?;
            session.output.answer(json!({ "tenant": tenant, "name": name, "deleted": true }), "")
        }
    }
}
