//! `flood`: sends leave by the clock on every connection, whether or not they are answered, as fast as the socket takes
//! them. What more than the broker can do is offered waits in front of it, and what it still does is its goodput.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::connection::Connection;
use super::producing::{Work, send_templates};
use super::tally::Tally;
use super::target::Destination;
use super::unix_ms;

/// Bytes that are made ready at once; the rest of what is due is made when these are taken.
const BURST_BYTES: usize = 256 << 10;
/// Requests of one connection whose times are told apart; more than sockets hold.
const SLOTS: usize = 1 << 16;
/// How long a sender rests when nothing is due and nothing comes.
const PAUSE: Duration = Duration::from_millis(1);

struct Flood {
    sent: u64,
    answered: u64,
    began: Vec<Instant>,
}

pub(super) async fn flood(to: Destination, size: usize, rate: u64, connection: usize, tally: Rc<Tally>) -> Result<()> {
    let mut socket = Connection::open(&to.address).await?;
    let work = Work { size, batch: 1, in_flight: 1, transactions: None, topics: 1 };
    let templates = send_templates(&to, work, connection);
    let start = Instant::now();
    let mut flood = Flood { sent: 0, answered: 0, began: vec![start; SLOTS] };
    let (mut out, mut heard) = (Vec::with_capacity(2 * BURST_BYTES), false);
    while !tally.is_over() || flood.answered < flood.sent {
        let due = if tally.is_over() { 0 } else { (start.elapsed().as_micros() * u128::from(rate) / 1_000_000) as u64 };
        let (now, born_ms) = (Instant::now(), unix_ms());
        while flood.sent < due && out.len() < BURST_BYTES {
            let slot = flood.sent as usize % SLOTS;
            flood.began[slot] = now;
            templates[flood.sent as usize % templates.len()].put(&mut out, slot as u32, born_ms, flood.sent);
            flood.sent += 1;
        }
        socket
            .exchange(&mut out, PAUSE, |answer| {
                let Some(slot) = answer.slot().filter(|slot| *slot < SLOTS) else { return Ok(()) };
                flood.answered += 1;
                if answer.code == 0 {
                    tally.succeeded(flood.began[slot], 1, size as u64);
                } else {
                    tally.failed(|| answer.refusal());
                }
                Ok(())
            })
            .await?;
        if flood.answered > 0 && !std::mem::replace(&mut heard, true) {
            tally.heard();
        }
    }
    Ok(())
}
