//! `mq admin namesrv`.

use anyhow::Result;
use clap::Subcommand;
use mq_client::Admin;

use super::{Sheet, pair};

#[derive(Debug, Subcommand)]
pub(super) enum NamesrvVerb {
    /// The settings of each name server.
    Config {
        /// Only keys that contain this.
        filter: Option<String>,
    },
    /// Changes settings of every name server, now and for its next start.
    Set {
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = pair)]
        settings: Vec<(String, String)>,
    },
}

pub(super) async fn namesrv(admin: &Admin, verb: &NamesrvVerb) -> Result<Sheet> {
    match verb {
        NamesrvVerb::Config { filter } => {
            let mut sheet = Sheet::new(&["name server", "key", "value"]);
            let wanted = |key: &str| filter.as_ref().is_none_or(|part| key.contains(part.as_str()));
            for (address, settings) in admin.name_server_settings().await? {
                for (key, value) in settings.into_iter().filter(|(key, _)| wanted(key)) {
                    sheet.row([address.as_str().into(), key.into(), value.into()]);
                }
            }
            Ok(sheet)
        }
        NamesrvVerb::Set { settings } => {
            let answers = admin.change_name_server_settings(settings).await?;
            let said = |(address, remark)| format!("{address}: changed. {remark}").trim_end().to_owned();
            Ok(Sheet::done(answers.into_iter().map(said).collect::<Vec<_>>().join("\n")))
        }
    }
}
