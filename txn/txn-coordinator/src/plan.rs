//! What the engine's decisions put into the log: several of them share one append and one OP record. Pure.
//!
//! A group of the log is `real message or parked copy …, OP record`. Of a group that a crash tears only messages are
//! left, each of which is its half's verdict; recovery appends what is missing of the OP record.

use std::net::SocketAddr;

use mq_protocol::ByteString;
use mq_protocol::ids::UnixMillis;
use mq_protocol::record::Message;
use smallvec::SmallVec;

use crate::op::op_record;
use crate::planted::{Bug, planted};
use crate::types::{HalfOffset, Halves, Outcome};

/// Halves that one OP record ends, but for those of one transaction: its body stays below the 4 KiB of Apache's.
const MAX_ENDS: usize = 256;
/// Bytes of a group: it has to fit into a segment, whole.
const MAX_GROUP_BYTES: usize = 1 << 20;
/// Bytes of messages that one append copies, but for those of one transaction.
const MAX_APPEND_BYTES: usize = 4 << 20;

/// One decision to append: what stands before the OP record, if anything, and what the OP record ends.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) first: Messages,
    pub(crate) ends: Halves,
    pub(crate) outcome: Outcome,
    /// Where the messages would be published, if a verdict led to this.
    pub(crate) topics: Topics,
}

/// One for most transactions.
pub(crate) type Messages = SmallVec<[Message; 1]>;
pub(crate) type Topics = SmallVec<[ByteString; 1]>;

/// The messages of one group, and all that its OP record ends.
pub(crate) struct Group {
    pub(crate) messages: Vec<Message>,
    pub(crate) ends: Vec<HalfOffset>,
}

impl AsRef<[Message]> for Group {
    fn as_ref(&self) -> &[Message] {
        &self.messages
    }
}

impl Plan {
    fn message_bytes(&self) -> usize {
        self.first.iter().map(Message::record_bytes).sum()
    }
}

/// The plans in runs that one append each may take: a thousand verdicts can stand for gigabytes.
pub(crate) fn portions(plans: &[Plan]) -> impl Iterator<Item = &[Plan]> {
    let mut rest = plans;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let too_much = |plan: &Plan| {
            bytes += plan.message_bytes();
            bytes > MAX_APPEND_BYTES
        };
        let end = rest.iter().position(too_much).map_or(rest.len(), |at| at.max(1));
        let (portion, behind) = rest.split_at(end);
        rest = behind;
        (!portion.is_empty()).then_some(portion)
    })
}

/// The groups for these plans, in their order.
pub(crate) fn groups(plans: &[Plan], now: UnixMillis, host: SocketAddr) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::with_capacity(1);
    let mut bytes = 0;
    for plan in plans {
        let more = plan.message_bytes();
        let fits = |group: &Group| group.ends.len() + plan.ends.len() <= MAX_ENDS && bytes + more <= MAX_GROUP_BYTES;
        if !groups.last().is_some_and(fits) {
            bytes = 0;
            groups.push(Group { messages: Vec::with_capacity(plans.len() + 1), ends: Vec::with_capacity(plans.len()) });
        }
        bytes += more;
        let group = groups.last_mut().expect("pushed above if there was none");
        let left_out = if planted(Bug::PartsLeftOut) { 1 } else { usize::MAX };
        group.messages.extend(plan.first.iter().take(left_out).filter(|_| !planted(Bug::DropMessage)).cloned());
        group.ends.extend_from_slice(&plan.ends);
    }
    for group in &mut groups {
        if group.messages.is_empty() || !planted(Bug::DropOpRecord) {
            group.messages.push(op_record(&group.ends, now, host));
        }
    }
    groups
}

/// In the order of their halves: a bug.
pub(crate) fn by_half(plans: &[Plan]) -> Vec<Plan> {
    let mut plans = plans.to_vec();
    plans.sort_by_key(|plan| plan.ends.first().copied());
    plans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::ended_by;

    fn plan(ends: std::ops::Range<u64>, body_bytes: usize) -> Plan {
        let host = SocketAddr::from(([127, 0, 0, 1], 1));
        let copy = Message { body: vec![0; body_bytes].into(), ..op_record(&[HalfOffset(0)], UnixMillis(0), host) };
        let first = (body_bytes > 0).then_some(copy).into_iter().collect();
        Plan { first, ends: ends.map(HalfOffset).collect(), outcome: Outcome::Committed, topics: Topics::new() }
    }

    #[test]
    fn plans_share_an_op_record_until_it_ends_enough_or_the_group_is_large() {
        const MIB: usize = 1 << 20;
        for (plans, expected) in [
            (vec![plan(0..1, 0)], vec![(0, 1)]),
            (vec![plan(0..1, 9), plan(1..2, 0), plan(2..5, 9)], vec![(2, 5)]),
            (vec![plan(0..256, 9), plan(256..257, 9)], vec![(1, 256), (1, 1)]),
            (vec![plan(0..300, 9), plan(300..301, 9)], vec![(1, 300), (1, 1)]),
            (vec![plan(0..1, MIB / 2), plan(1..2, MIB / 3), plan(2..3, MIB / 2)], vec![(2, 2), (1, 1)]),
            (vec![plan(0..1, 3 * MIB), plan(1..2, 0)], vec![(1, 1), (0, 1)]),
        ] {
            let groups = groups(&plans, UnixMillis(1), SocketAddr::from(([127, 0, 0, 1], 1)));
            let shape: Vec<_> = groups.iter().map(|group| (group.messages.len() - 1, group.ends.len())).collect();
            assert_eq!(shape, expected);
            for group in &groups {
                assert_eq!(ended_by(group.messages.last().expect("an OP record")), group.ends);
            }
        }
    }

    #[test]
    fn one_append_copies_four_mib_or_the_messages_of_one_transaction() {
        const MIB: usize = 1 << 20;
        for (bodies, expected) in [
            (vec![], vec![]),
            (vec![0; 1000], vec![1000]),
            (vec![MIB; 7], vec![3, 3, 1]),
            (vec![5 * MIB, 1, 5 * MIB, 5 * MIB], vec![1, 1, 1, 1]),
            (vec![1, 2 * MIB, 3 * MIB], vec![2, 1]),
        ] {
            let plans: Vec<_> = bodies.iter().map(|body| plan(0..1, *body)).collect();
            assert_eq!(portions(&plans).map(<[Plan]>::len).collect::<Vec<_>>(), expected);
        }
    }
}
