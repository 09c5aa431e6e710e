//! What each message of a crash test is, computed from the seed: its queue, its bytes, and how its transaction ends.
//! Nothing needs to be remembered to judge a message that comes back.

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// The topic of a crash test.
pub const TOPIC: &str = "crash";
pub const QUEUES: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId {
    pub producer: u16,
    pub sequence: u32,
}

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.producer, self.sequence)
    }
}

/// How a message is sent, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    Plain,
    Commit,
    Rollback,
    CommitWhenAsked,
    RollbackWhenAsked,
    /// Every check is answered with "unknown": it ends parked.
    NeverDecided,
}

impl Fate {
    #[must_use]
    pub fn is_half(self) -> bool {
        self != Self::Plain
    }

    /// Whether consumers see it in the end.
    #[must_use]
    pub fn is_visible(self) -> bool {
        matches!(self, Self::Plain | Self::Commit | Self::CommitWhenAsked)
    }

    /// Ended by its producer right after the half is stored.
    #[must_use]
    pub fn ends_at_once(self) -> bool {
        matches!(self, Self::Commit | Self::Rollback)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
}

impl Plan {
    #[must_use]
    pub fn fate(&self, id: MessageId) -> Fate {
        match self.random(id).random_range(0..100) {
            0..62 => Fate::Plain,
            62..78 => Fate::Commit,
            78..88 => Fate::Rollback,
            88..93 => Fate::CommitWhenAsked,
            93..98 => Fate::RollbackWhenAsked,
            _ => Fate::NeverDecided,
        }
    }

    #[must_use]
    pub fn queue(&self, id: MessageId) -> u32 {
        id.sequence % QUEUES
    }

    /// The id in text, then bytes that only this seed and id give.
    #[must_use]
    pub fn body(&self, id: MessageId) -> Bytes {
        let mut random = self.random(id);
        let _fate: u32 = random.random_range(0..100);
        let mut body = format!("{id} ").into_bytes();
        let filler = random.random_range(0..1500);
        body.extend((0..filler).map(|_| random.random::<u8>()));
        body.into()
    }

    /// The id that a body starts with, when it has one.
    #[must_use]
    pub fn id_of(body: &[u8]) -> Option<MessageId> {
        let end = body.iter().take(24).position(|byte| *byte == b' ')?;
        let (producer, sequence) = std::str::from_utf8(&body[..end]).ok()?.split_once('/')?;
        Some(MessageId { producer: producer.parse().ok()?, sequence: sequence.parse().ok()? })
    }

    /// Whether `body` is exactly what its id was sent with.
    #[must_use]
    pub fn is_intact(&self, id: MessageId, body: &[u8]) -> bool {
        self.body(id) == body
    }

    fn random(&self, id: MessageId) -> SmallRng {
        let id = u64::from(id.producer) << 32 | u64::from(id.sequence);
        SmallRng::seed_from_u64(self.seed.rotate_left(17) ^ id.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}
