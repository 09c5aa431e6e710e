//! Consumers hear at once of what changes for them (40), not from their own clocks 20 to 30 s later.
//!
//! What they are told is only "share the queues anew". Java's client then asks the name server for the route of a topic
//! that it does not know, but takes its queues with the next sharing only, and shares at most once a second: whoever is
//! told is told again a little later.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::registration::RegistrationChanges;

/// More than the second that Java's client rests between two sharings, and the time of a route query.
const AGAIN_AFTER: Duration = Duration::from_millis(1_500);

/// Groups that are told once more.
#[derive(Default)]
pub(crate) struct Announcements {
    again: Mutex<BTreeSet<String>>,
    added: Notify,
}

impl Announcements {
    pub(crate) fn again(&self, groups: impl IntoIterator<Item = String>) {
        let mut again = self.again.lock();
        let before = again.len();
        again.extend(groups);
        if again.len() > before {
            self.added.notify_one();
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.again.lock()).into_iter().collect()
    }
}

pub(crate) async fn run(broker: Arc<Broker>, mut routed: RegistrationChanges, stop: CancellationToken) {
    let mut known = broker.topics.read_queues();
    let mut due: Option<Instant> = None;
    loop {
        tokio::select! {
            Some(version) = routed.newer() => announce_topics(&broker, &mut known, version),
            () = broker.announcements.added.notified() => {
                due.get_or_insert_with(|| Instant::now() + AGAIN_AFTER);
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                due = None;
                broker.tell(&broker.announcements.take());
            }
            () = stop.cancelled() => return,
        }
    }
}

/// Tells the groups that wait for a topic, or for more queues of one, that its route is there.
fn announce_topics(broker: &Broker, known: &mut HashMap<String, u32>, routed: u64) {
    let newest = *broker.topics.changes().borrow();
    let topics = broker.topics.read_queues();
    let changed = topics.iter().filter(|(topic, queues)| known.get(*topic) != Some(queues));
    let groups: BTreeSet<String> = changed.flat_map(|(topic, _)| broker.clients.groups_of_topic(topic)).collect();
    let groups: Vec<String> = groups.into_iter().collect();
    broker.tell(&groups);
    broker.announcements.again(groups);
    if newest == routed {
        // Else some are too new for the name servers: they are told of again when those know them.
        *known = topics;
    }
}
