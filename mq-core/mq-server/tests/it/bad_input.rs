//! Frames of others' clients, mutated, against a running broker: it neither panics nor hangs nor grows, and who behaves
//! is served meanwhile.

#[allow(dead_code, reason = "only the frames are sent")]
#[path = "../../../fuzz/seeds.rs"]
mod seeds;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use seeds::{Seeds, mutate};

use crate::process::Mq;
use crate::wire::Client;

const FRAMES: u64 = 2000;
/// Of one connection: what its mutations made of a length may swallow those behind it.
const FRAMES_PER_CONNECTION: u64 = 10;
const GROWTH_KIB: u64 = 64 << 10;
/// Bounds a broker that hangs; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn mutated_frames_neither_stop_nor_grow_a_broker() {
    let directory = tempfile::tempdir().expect("a directory");
    let errors = directory.path().join("stderr");
    let mq = Mq::up_with_stderr(&directory.path().join("store"), &errors);
    let mut good = Client::connect(mq.broker());
    good.send("good", "first");
    let seeds = Seeds::read().frames;
    let before = mq.anonymous_memory_kib();
    for connection in 0..FRAMES / FRAMES_PER_CONNECTION {
        let mut dice = StdRng::seed_from_u64(connection);
        let mut bad = TcpStream::connect(mq.broker()).expect("accepted");
        bad.set_read_timeout(Some(PATIENCE)).expect("set");
        for _ in 0..FRAMES_PER_CONNECTION {
            let mut pick = || &seeds[dice.random_range(0..seeds.len())];
            let (seed, other) = (pick(), pick());
            // The broker may have closed it.
            if bad.write_all(&mutate(&mut dice, seed, other)).is_err() {
                break;
            }
        }
        // With this side closed the broker answers what it understood, and closes too.
        if bad.shutdown(Shutdown::Write).is_ok() {
            let ended = std::io::copy(&mut (&mut bad).take(64 << 20), &mut std::io::sink());
            let stuck = ended.as_ref().is_err_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock));
            assert!(!stuck, "connection {connection} is stuck");
        }
        if connection % 10 == 0 {
            good.send("good", "still served");
        }
    }
    let grown = mq.anonymous_memory_kib().saturating_sub(before);
    assert!(grown < GROWTH_KIB, "{grown} KiB");
    assert!(mq.stop().success());
    let said = std::fs::read_to_string(errors).expect("its stderr");
    assert!(!said.contains("panicked"), "{said}");
}
