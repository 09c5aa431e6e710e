//! `mq admin group status`: what the consumers of a group do, by their own account.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use mq_client::{Admin, Master};
use mq_protocol::body::RunningInfo;
use serde_json::Value;

use super::Sheet;

/// A row for each topic of each consumer. One that does not tell is named with nothing beside its name.
pub(super) async fn sheet(admin: &Admin, group: &str, wanted: Option<&str>) -> Result<Sheet> {
    let mut sheet = Sheet::new(&[
        "client",
        "topic",
        "queues",
        "in hand",
        "pulled a second",
        "pull ms",
        "handled a second",
        "handle ms",
        "failed a second",
        "failed in an hour",
    ]);
    let members = members(admin, group, wanted).await?;
    for (client, master) in members {
        match admin.running_info(&master, group, &client).await {
            Ok(info) => rows(&mut sheet, &client, &info),
            Err(error) => {
                tracing::warn!(client, %error, "does not tell what it does");
                sheet.row([client.into()].into_iter().chain(std::iter::repeat_n(Value::Null, 9)));
            }
        }
    }
    Ok(sheet)
}

/// Each connected client, with a broker that it is connected to.
async fn members(admin: &Admin, group: &str, wanted: Option<&str>) -> Result<BTreeMap<String, Master>> {
    let masters = admin.masters().await?;
    let mut members = BTreeMap::new();
    for (broker, consumers) in admin.consumers(group).await? {
        let Some(master) = masters.iter().find(|master| master.name == broker) else { continue };
        let named = consumers.connection_set.into_iter().map(|member| (member.client_id, master.clone()));
        members.extend(named.filter(|(client, _)| wanted.is_none_or(|wanted| client == wanted)));
    }
    ensure!(!members.is_empty(), "{} is not connected: see `mq admin group clients {group}`", wanted.unwrap_or(group));
    Ok(members)
}

fn rows(sheet: &mut Sheet, client: &str, info: &RunningInfo) {
    let subscribed = info.subscription_set.iter().map(|subscription| subscription.topic.as_str());
    let read = info.mq_table.keys().map(|queue| queue.0.topic.as_str());
    let topics: std::collections::BTreeSet<&str> =
        info.status_table.keys().map(String::as_str).chain(subscribed).chain(read).collect();
    let tenths = |number: f64| Value::from((number * 10.0).round() / 10.0);
    for topic in topics {
        let held = info.mq_table.iter().filter(|(queue, _)| queue.0.topic == topic);
        let rates = info.status_table.get(topic).cloned().unwrap_or_default();
        sheet.row([
            client.into(),
            topic.into(),
            held.clone().count().into(),
            held.map(|(_, queue)| queue.cached_msg_count).sum::<u64>().into(),
            tenths(rates.pulled),
            tenths(rates.pull_ms),
            tenths(rates.acknowledged),
            tenths(rates.handle_ms),
            tenths(rates.failed),
            rates.failed_in_an_hour.into(),
        ]);
    }
}
