//! `mq admin kv`.

use anyhow::Result;
use clap::Subcommand;
use mq_client::Admin;

use super::Sheet;

#[derive(Debug, Subcommand)]
pub(super) enum KvVerb {
    /// Every key of a namespace.
    List { namespace: String },
    /// Sets a key at every name server.
    Put { namespace: String, key: String, value: String },
    /// Deletes a key at every name server.
    Delete { namespace: String, key: String },
}

pub(super) async fn kv(admin: &Admin, verb: &KvVerb) -> Result<Sheet> {
    match verb {
        KvVerb::List { namespace } => {
            let mut sheet = Sheet::new(&["key", "value"]);
            for (key, value) in admin.kv(namespace).await? {
                sheet.row([key.into(), value.into()]);
            }
            Ok(sheet)
        }
        KvVerb::Put { namespace, key, value } => {
            admin.put_kv(namespace, key, value).await?;
            Ok(Sheet::done(format!("{key} of {namespace} is set")))
        }
        KvVerb::Delete { namespace, key } => {
            let was_there = has(admin, namespace, key).await?;
            admin.delete_kv(namespace, key).await?;
            Ok(Sheet::deleted(format!("{key} of {namespace}"), was_there))
        }
    }
}

pub(super) async fn has(admin: &Admin, namespace: &str, key: &str) -> Result<bool> {
    Ok(admin.kv(namespace).await?.into_iter().any(|(known, _)| known == key))
}
