//! Which callbacks are taken for the gateway's.

use order_service::callbacks::{Callbacks, RefusedCallback, Signed};
use order_service::signature::Secret;

use crate::support::{HandClock, TestDatabase};

const NOW_S: i64 = 1_800_000_000;
const BODY: &[u8] = br#"{"pay_id":"p"}"#;

fn named(outcome: &Result<(), RefusedCallback>) -> &'static str {
    match outcome {
        Ok(()) => "accepted",
        Err(RefusedCallback::Forged) => "forged",
        Err(RefusedCallback::Stale) => "stale",
        Err(RefusedCallback::Replayed) => "replayed",
        Err(RefusedCallback::Database(_)) => "database",
    }
}

#[tokio::test]
async fn forged_stale_and_replayed_callbacks_are_refused() {
    let database = TestDatabase::new().await;
    let clock = HandClock::at_ms(NOW_S * 1000);
    let secret = Secret::new("shared");
    let callbacks = Callbacks::new(database.db.clone(), clock.clock(), secret.clone());
    let stranger = Secret::new("guessed");
    // (signer, seconds from now, nonce, body that arrives, expected)
    let cases: [(&Secret, i64, &str, &[u8], &str); 12] = [
        (&secret, 0, "n1", BODY, "accepted"),
        (&secret, 0, "n1", BODY, "replayed"),
        (&secret, 0, "n2", BODY, "accepted"),
        (&secret, -300, "n3", BODY, "accepted"),
        (&secret, -301, "n4", BODY, "stale"),
        (&secret, 300, "n5", BODY, "accepted"),
        (&secret, 301, "n6", BODY, "stale"),
        (&secret, -299, "n1", BODY, "replayed"),
        (&secret, 0, "n7", br#"{"pay_id":"q"}"#, "forged"),
        (&stranger, 0, "n8", BODY, "forged"),
        (&stranger, -9999, "n1", BODY, "forged"),
        (&secret, 0, "", BODY, "forged"),
    ];
    for (signer, seconds, nonce, arrives, expect) in cases {
        let timestamp = (NOW_S + seconds).to_string();
        let signature = signer.sign(&timestamp, nonce, BODY);
        let signed = Signed { timestamp: &timestamp, nonce, signature: &signature };
        let outcome = callbacks.authenticate(signed, arrives).await;
        assert_eq!(named(&outcome), expect, "{seconds} {nonce} {outcome:?}");
    }
}

#[tokio::test]
async fn a_spent_nonce_is_kept_until_its_timestamp_is_stale_for_every_clock() {
    let database = TestDatabase::new().await;
    let clock = HandClock::at_ms(NOW_S * 1000);
    let secret = Secret::new("shared");
    let callbacks = Callbacks::new(database.db.clone(), clock.clock(), secret.clone());
    // The gateway's clock is 300 s fast: its callback stays fresh for 600 s of ours, and to the end of that second.
    let timestamp = (NOW_S + 300).to_string();
    let signature = secret.sign(&timestamp, "n", BODY);
    let signed = Signed { timestamp: &timestamp, nonce: "n", signature: &signature };
    let mut outcomes = Vec::new();
    for step_ms in [0, 299_000, 301_999, 1] {
        clock.advance_ms(step_ms);
        outcomes.push(named(&callbacks.authenticate(signed, BODY).await));
    }
    assert_eq!(outcomes, ["accepted", "replayed", "replayed", "stale"]);
}

#[tokio::test]
async fn headers_that_are_no_callback_are_forged() {
    let database = TestDatabase::new().await;
    let secret = Secret::new("shared");
    let callbacks = Callbacks::new(database.db.clone(), HandClock::at_ms(NOW_S * 1000).clock(), secret.clone());
    let unsigned = Signed { timestamp: "", nonce: "", signature: "" };
    assert_eq!(named(&callbacks.authenticate(unsigned, BODY).await), "forged");
    let signature = secret.sign("now", "n", BODY);
    let no_time = Signed { timestamp: "now", nonce: "n", signature: &signature };
    assert_eq!(named(&callbacks.authenticate(no_time, BODY).await), "stale");
}
