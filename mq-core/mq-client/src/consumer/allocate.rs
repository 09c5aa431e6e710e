//! Who of a group reads which queues. Pure, and equal on every member: each computes its own share of the same lists.
//!
//! The strategies give the shares that Java's give, so that members of both kinds can stand in one group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use md5::{Digest, Md5};
use mq_protocol::body::MessageQueue;

/// Places of one member on the ring of [`Allocation::ConsistentHash`].
const VIRTUAL_NODES: usize = 10;

#[derive(Clone, Debug, Default)]
pub enum Allocation {
    /// Neighbouring queues, in equal shares: Java's `AVG`.
    #[default]
    Average,
    /// Queues dealt out one by one: `AVG_BY_CIRCLE`.
    AverageByCircle,
    /// Few queues move when a member comes or goes: `CONSISTENT_HASH`.
    ConsistentHash,
    /// Queues of brokers named `room@name`, for members that serve these rooms: `MACHINE_ROOM`.
    MachineRoom(BTreeSet<String>),
    /// Queues go to members of their own room, and to everybody where no member is: `MACHINE_ROOM_NEARBY`.
    NearestMachineRoom { rooms: Rooms, within: Box<Allocation> },
    /// Always these: `CONFIG`.
    Config(Vec<MessageQueue>),
}

/// In which machine room a broker's queue and a client are.
#[derive(Clone)]
pub struct Rooms {
    pub of_queue: Arc<dyn Fn(&MessageQueue) -> String + Send + Sync>,
    pub of_client: Arc<dyn Fn(&str) -> String + Send + Sync>,
}

impl fmt::Debug for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rooms")
    }
}

type Queue = Arc<MessageQueue>;

impl Allocation {
    /// Java's name of the strategy.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Average => "AVG",
            Self::AverageByCircle => "AVG_BY_CIRCLE",
            Self::ConsistentHash => "CONSISTENT_HASH",
            Self::MachineRoom(_) => "MACHINE_ROOM",
            Self::NearestMachineRoom { .. } => "MACHINE_ROOM_NEARBY",
            Self::Config(_) => "CONFIG",
        }
    }

    /// The queues of `me`. Both lists are sorted; nothing for somebody who is not in the group.
    #[must_use]
    pub fn allocate(&self, me: &str, queues: &[Queue], members: &[String]) -> Vec<Queue> {
        if let Self::Config(own) = self {
            return own.iter().cloned().map(Arc::new).collect();
        }
        let Some(index) = members.iter().position(|member| member == me) else { return Vec::new() };
        match self {
            Self::Average => average(index, queues, members.len()),
            Self::AverageByCircle => queues.iter().skip(index).step_by(members.len()).cloned().collect(),
            Self::ConsistentHash => consistent_hash(me, queues, members),
            Self::MachineRoom(rooms) => machine_room(index, queues, members.len(), rooms),
            Self::NearestMachineRoom { rooms, within } => nearest(me, queues, members, rooms, within),
            Self::Config(_) => unreachable!("answered above"),
        }
    }
}

/// The first members get one more when it does not come out even.
fn average(index: usize, queues: &[Queue], members: usize) -> Vec<Queue> {
    let (each, left) = (queues.len() / members, queues.len() % members);
    let start = index * each + index.min(left);
    let share = each + usize::from(index < left);
    queues[start..start + share].to_vec()
}

fn consistent_hash(me: &str, queues: &[Queue], members: &[String]) -> Vec<Queue> {
    let places = |member: &String| {
        let member = member.clone();
        (0..VIRTUAL_NODES).map(move |place| (ring_place(&format!("{member}-{place}")), member.clone()))
    };
    let ring: BTreeMap<u32, String> = members.iter().flat_map(places).collect();
    let owner = |queue: &Queue| {
        let place = ring_place(&java_text(queue));
        ring.range(place..).next().or_else(|| ring.iter().next()).map(|(_, member)| member.as_str())
    };
    queues.iter().filter(|queue| owner(queue) == Some(me)).cloned().collect()
}

/// The first four bytes of the MD5.
fn ring_place(text: &str) -> u32 {
    let digest = Md5::digest(text);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// How Java prints a queue; the ring hashes this text.
fn java_text(queue: &MessageQueue) -> String {
    let MessageQueue { topic, broker_name, queue_id } = queue;
    format!("MessageQueue [topic={topic}, brokerName={broker_name}, queueId={queue_id}]")
}

/// Equal shares of the rooms' queues; what is left over is dealt out one by one.
fn machine_room(index: usize, queues: &[Queue], members: usize, rooms: &BTreeSet<String>) -> Vec<Queue> {
    let served = |queue: &&Queue| {
        let mut parts = queue.broker_name.split('@');
        matches!((parts.next(), parts.next(), parts.next()), (Some(room), Some(_), None) if rooms.contains(room))
    };
    let queues: Vec<Queue> = queues.iter().filter(served).cloned().collect();
    let each = queues.len() / members;
    let mut share = queues[index * each..(index + 1) * each].to_vec();
    share.extend(queues.get(each * members + index).cloned());
    share
}

fn nearest(me: &str, queues: &[Queue], members: &[String], rooms: &Rooms, within: &Allocation) -> Vec<Queue> {
    let mut by_room: BTreeMap<String, Vec<Queue>> = BTreeMap::new();
    for queue in queues {
        by_room.entry((rooms.of_queue)(queue)).or_default().push(queue.clone());
    }
    let my_room = (rooms.of_client)(me);
    let inhabited: BTreeSet<String> = members.iter().map(|member| (rooms.of_client)(member)).collect();
    let neighbours: Vec<String> =
        members.iter().filter(|member| (rooms.of_client)(member) == my_room).cloned().collect();
    let own = by_room.get(&my_room).map(|queues| within.allocate(me, queues, &neighbours));
    let deserted = by_room.iter().filter(|(room, _)| !inhabited.contains(*room));
    let shared = deserted.flat_map(|(_, queues)| within.allocate(me, queues, members));
    own.into_iter().flatten().chain(shared).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(brokers: &[(&str, u32)]) -> Vec<Queue> {
        let of = |(broker, count): &(&str, u32)| {
            let broker = (*broker).to_owned();
            (0..*count).map(move |id| MessageQueue { topic: "T".into(), broker_name: broker.clone(), queue_id: id })
        };
        brokers.iter().flat_map(of).map(Arc::new).collect()
    }

    fn members(count: usize) -> Vec<String> {
        (0..count).map(|member| format!("10.0.0.{member}@1#2")).collect()
    }

    fn shares(strategy: &Allocation, queues: &[Queue], members: &[String]) -> String {
        let share = |member: &String| {
            let own = strategy.allocate(member, queues, members);
            own.iter().map(|queue| format!("{}{}", queue.broker_name, queue.queue_id)).collect::<Vec<_>>().join(" ")
        };
        members.iter().map(share).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn shares_are_those_of_java() {
        let room = |rooms: &[&str]| Allocation::MachineRoom(rooms.iter().map(ToString::to_string).collect());
        let near = || Allocation::NearestMachineRoom {
            rooms: Rooms {
                of_queue: Arc::new(|queue| queue.broker_name.clone()),
                of_client: Arc::new(|client| if client.starts_with("10.0.0.0") { "a".into() } else { "b".into() }),
            },
            within: Box::default(),
        };
        for (strategy, brokers, count, expected) in [
            (Allocation::Average, &[("a", 8)][..], 3, "a0 a1 a2 | a3 a4 a5 | a6 a7"),
            (Allocation::Average, &[("a", 2)], 3, "a0 | a1 | "),
            (Allocation::AverageByCircle, &[("a", 8)], 3, "a0 a3 a6 | a1 a4 a7 | a2 a5"),
            (room(&["x"]), &[("x@a", 5), ("y@a", 4), ("b", 3)], 2, "x@a0 x@a1 x@a4 | x@a2 x@a3"),
            (near(), &[("a", 2), ("b", 3), ("c", 3)], 3, "a0 a1 c0 | b0 b1 c1 | b2 c2"),
            (Allocation::Config(vec![]), &[("a", 2)], 1, ""),
        ] {
            assert_eq!(shares(&strategy, &queues(brokers), &members(count)), expected, "{}", strategy.name());
        }
    }

    #[test]
    fn every_queue_has_exactly_one_owner_and_strangers_get_none() {
        for strategy in [Allocation::Average, Allocation::AverageByCircle, Allocation::ConsistentHash] {
            for count in 1..9 {
                let (queues, members) = (queues(&[("a", 7), ("b", 6)]), members(count));
                let mut owned: Vec<Queue> =
                    members.iter().flat_map(|member| strategy.allocate(member, &queues, &members)).collect();
                owned.sort();
                assert_eq!(owned, queues, "{} {count}", strategy.name());
                assert!(strategy.allocate("stranger", &queues, &members).is_empty());
            }
        }
    }

    #[test]
    fn a_leaving_member_moves_only_its_own_queues() {
        let (queues, members) = (queues(&[("a", 32)]), members(4));
        let rest: Vec<String> = members[..3].to_vec();
        for member in &rest {
            let before = Allocation::ConsistentHash.allocate(member, &queues, &members);
            let after = Allocation::ConsistentHash.allocate(member, &queues, &rest);
            assert!(before.iter().all(|queue| after.contains(queue)));
        }
    }
}
