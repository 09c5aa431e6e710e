//! `mq admin topic rates`: what goes in and out, by topic and group.

use anyhow::Result;
use mq_client::{Admin, Master};
use mq_protocol::body::BrokerStatsData;
use serde_json::Value;

use super::Sheet;

/// Messages of the last minute, by the second, and of a day.
#[derive(Clone, Copy, Default)]
struct Rate {
    a_second: f64,
    a_day: u64,
}

impl Rate {
    fn add(&mut self, counted: Option<BrokerStatsData>) {
        let Some(counted) = counted else { return };
        self.a_second += counted.stats_minute.tps;
        // The longest span that is sampled already.
        let spans = [counted.stats_day.sum, counted.stats_hour.sum, counted.stats_minute.sum];
        self.a_day += spans.into_iter().find(|sum| *sum > 0).unwrap_or(0);
    }

    fn cells(self) -> [Value; 2] {
        [((self.a_second * 10.0).round() / 10.0).into(), self.a_day.into()]
    }
}

/// A row for each group of each topic; one without a group for a topic that nobody reads.
pub(super) async fn sheet(admin: &Admin, topic: Option<&str>) -> Result<Sheet> {
    let topics = match topic {
        Some(topic) => vec![topic.to_owned()],
        None => admin.user_topics().await?,
    };
    let masters = admin.masters().await?;
    let mut sheet = Sheet::new(&["topic", "group", "in a second", "in a day", "out a second", "out a day", "lag"]);
    for topic in topics {
        let [in_second, in_day] = counted(admin, &masters, "TOPIC_PUT_NUMS", &topic).await?.cells();
        let mut groups = std::collections::BTreeSet::new();
        for master in &masters {
            groups.extend(admin.groups_of(master, &topic).await?);
        }
        if groups.is_empty() {
            let none = Value::Null;
            sheet.row([topic.into(), none.clone(), in_second, in_day, none.clone(), none.clone(), none]);
            continue;
        }
        for group in groups {
            let key = format!("{topic}@{group}");
            let [out_second, out_day] = counted(admin, &masters, "GROUP_GET_NUMS", &key).await?.cells();
            let lag: u64 = admin.progress(&group, Some(&topic)).await?.queues.iter().map(|queue| queue.lag()).sum();
            sheet.row([
                topic.as_str().into(),
                group.into(),
                in_second.clone(),
                in_day.clone(),
                out_second,
                out_day,
                lag.into(),
            ]);
        }
    }
    Ok(sheet)
}

async fn counted(admin: &Admin, masters: &[Master], name: &str, key: &str) -> Result<Rate> {
    let mut rate = Rate::default();
    for master in masters {
        rate.add(admin.counted(master, name, key).await?);
    }
    Ok(rate)
}
