//! The 29 points at which something may go wrong, what may go wrong there, and the plan of one run. Pure.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

/// Who takes a step, and dies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    Service,
    Broker,
    Consumer,
}

macro_rules! points {
    ($($actor:ident: $($point:ident),+;)+) => {
        /// In the order in which a transaction, a checkback and a delivery pass them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Point {
            $($($point,)+)+
        }

        impl Point {
            pub(crate) const ALL: [Self; 29] = [$($(Self::$point,)+)+];

            pub(crate) fn actor(self) -> Actor {
                match self {
                    $($(Self::$point)|+ => Actor::$actor,)+
                }
            }
        }

        impl FromStr for Point {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($(stringify!($point) => Ok(Self::$point),)+)+
                    other => Err(format!("{other} is no point")),
                }
            }
        }
    };
}
points! {
    Service: BeforeHalf, HalfSent, HalfAcked, TxBegun, MarkerWritten, CommitSent, Committed, EndSent, EndAcked,
        CheckReceived, CheckAnswered;
    Broker: HalfParsed, HalfAppended, HalfDurable, HalfReplied, EndParsed, DecisionAppended, DecisionDurable, Visible,
        OpNoted, CheckScanned, CheckSent, ParkWritten;
    Consumer: Received, InboxRow, EffectWritten, EffectCommitted, BeforeAck, AckLost;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    CrashBefore,
    CrashAfter,
    Error,
    /// Past the immunity, at times past the deadline or many intervals.
    Delay,
    Duplicate,
    /// The wall clock is set back by an hour, ahead by one, or ahead by 73.
    LeapBack,
    LeapAhead,
    LeapFar,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::CrashBefore, Self::CrashAfter, Self::Error, Self::Delay, Self::Duplicate];
    pub(crate) const LEAPS: [Self; 3] = [Self::LeapBack, Self::LeapAhead, Self::LeapFar];

    /// By how many hours it sets the clock.
    pub(crate) fn hours(self) -> i64 {
        match self {
            Self::LeapBack => -1,
            Self::LeapAhead => 1,
            Self::LeapFar => 73,
            _ => 0,
        }
    }
}

/// What happens on a day of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Day {
    #[default]
    Ordinary,
    /// The same, with housekeepers that go by the clock; it may leap.
    Clocks,
    /// What else a transaction can have: the outbox, what handlers emit, delays, an order, operators.
    Beyond,
}

impl Day {
    const ALL: [Self; 3] = [Self::Ordinary, Self::Clocks, Self::Beyond];
}

/// At the visit of this number (from 0), counted since the fault before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) point: Point,
    pub(crate) kind: Kind,
    pub(crate) visit: u32,
}

/// What goes wrong in one run: one fault after the other, and the seed of everything that is left to chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) day: Day,
    pub(crate) faults: VecDeque<Fault>,
    pub(crate) seed: u64,
}

impl Plan {
    pub(crate) fn new(faults: impl IntoIterator<Item = Fault>, seed: u64) -> Self {
        Self { day: Day::Ordinary, faults: faults.into_iter().collect(), seed }
    }

    pub(crate) fn on(self, day: Day) -> Self {
        Self { day, ..self }
    }

    /// What goes wrong now, as this point is reached.
    pub(crate) fn reach(&mut self, point: Point) -> Option<Kind> {
        let next = self.faults.front_mut().filter(|fault| fault.point == point)?;
        match next.visit.checked_sub(1) {
            Some(left) => {
                next.visit = left;
                None
            }
            None => self.faults.pop_front().map(|fault| fault.kind),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.day != Day::Ordinary {
            write!(f, "{:?}/", self.day)?;
        }
        for Fault { point, kind, visit } in &self.faults {
            write!(f, "{point:?}:{kind:?}:{visit},")?;
        }
        write!(f, "{}", self.seed)
    }
}

/// As it was printed.
impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (day, text) = text.split_once('/').unwrap_or(("Ordinary", text));
        let day = Day::ALL.into_iter().find(|known| format!("{known:?}") == day).ok_or(format!("{day} is no day"))?;
        let (faults, seed) = text.rsplit_once(',').unwrap_or(("", text));
        let fault = |text: &str| {
            let parts: Vec<&str> = text.split(':').collect();
            let [point, kind, visit] = parts[..] else { return Err(format!("{text} is no point:kind:visit")) };
            let kind = Kind::ALL
                .into_iter()
                .chain(Kind::LEAPS)
                .find(|known| format!("{known:?}") == kind)
                .ok_or(kind.to_owned())?;
            Ok(Fault { point: point.parse()?, kind, visit: visit.parse().map_err(|error| format!("{error}"))? })
        };
        let faults = faults.split(',').filter(|part| !part.is_empty()).map(fault).collect::<Result<_, String>>()?;
        Ok(Self { day, faults, seed: seed.parse().map_err(|error| format!("the seed {seed}: {error}"))? })
    }
}

#[test]
fn plans_are_read_as_they_are_printed() {
    let fault = |point, kind, visit| Fault { point, kind, visit };
    let (first, second) = (fault(Point::HalfSent, Kind::Delay, 3), fault(Point::AckLost, Kind::CrashAfter, 0));
    let leap = fault(Point::Committed, Kind::LeapFar, 1);
    let plans = [Plan::new([], 7), Plan::new([first], 0), Plan::new([first, second], 9)];
    for plan in plans.into_iter().chain([Plan::new([leap], 1).on(Day::Clocks), Plan::new([], 2).on(Day::Beyond)]) {
        assert_eq!(plan.to_string().parse(), Ok(plan));
    }
}
