//! Crash points of the protocol, for replays and crash tests: the process aborts at the very spot.
//!
//! Built only with the feature `failpoints`, and then armed by the variable `FAILPOINTS` in the syntax of the crate
//! `fail`: `txn-between-commit-and-end=return` dies at the first visit, `txn-after-half=5*off->return` at the sixth,
//! `inbox-before-ack=10%return` at one visit in ten. `return` and `panic` both mean "abort here"; `sleep(ms)`, `pause`
//! and `off` are as in `fail`.

/// The spots, in the order that a transaction and a delivery pass them.
pub const POINTS: [&str; 22] = [
    "txn-before-half",
    "txn-half-sent",
    "txn-after-half",
    "txn-begun",
    "txn-marked",
    "txn-after-rows",
    "txn-commit-sent",
    "txn-between-commit-and-end",
    "txn-end-sent",
    "txn-after-end",
    "check-received",
    "check-decided",
    "check-answered",
    "inbox-before-row",
    "inbox-after-row",
    "inbox-after-effect",
    "inbox-commit-sent",
    "inbox-between-commit-and-end",
    "inbox-before-ack",
    "inbox-after-ack",
    "outbox-after-half",
    "outbox-between-commit-and-end",
];

/// Arms the points that `FAILPOINTS` names, here and in every crate of this process that uses `fail`. Call it once, at
/// the start of `main`. In a binary without the feature it only says that the variable has no effect.
pub fn arm() {
    #[cfg(feature = "failpoints")]
    std::mem::forget(fail::FailScenario::setup());
    #[cfg(not(feature = "failpoints"))]
    if std::env::var_os("FAILPOINTS").is_some() {
        tracing::warn!("FAILPOINTS is set, but this binary was built without crash points");
    }
}

/// Dies here, if this point is armed. Public for the points of programs that are built on the SDK.
#[cfg(feature = "failpoints")]
pub fn reach(point: &'static str) {
    let visit = || fail::fail_point!(point, |_| abort(point));
    if std::panic::catch_unwind(visit).is_err() {
        abort(point);
    }
}

/// Does nothing in a binary without crash points.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn reach(_point: &'static str) {}

/// Whether somebody wants to die or to wait there.
#[cfg(feature = "failpoints")]
pub(crate) fn is_armed(point: &str) -> bool {
    fail::list().iter().any(|(name, _)| name == point)
}

#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) const fn is_armed(_point: &str) -> bool {
    false
}

/// How long what was just handed over has, to be on its way.
#[cfg(feature = "failpoints")]
const ON_ITS_WAY: std::time::Duration = std::time::Duration::from_millis(30);

/// Dies here, if this point is armed, while `work` is on its way: asked for, and not answered yet.
#[cfg(feature = "failpoints")]
pub(crate) async fn during<T>(point: &'static str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|context| {
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            soon(point);
        }
        polled
    })
    .await
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn during<F: Future>(_point: &'static str, work: F) -> F {
    work
}

/// Dies a moment later, if this point is armed.
#[cfg(feature = "failpoints")]
pub(crate) fn soon(point: &'static str) {
    let visit = || {
        fail::fail_point!(point, |_| drop(std::thread::spawn(move || {
            std::thread::sleep(ON_ITS_WAY);
            abort(point)
        })))
    };
    if std::panic::catch_unwind(visit).is_err() {
        abort(point);
    }
}

#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn soon(_point: &'static str) {}

#[cfg(feature = "failpoints")]
fn abort(point: &str) -> ! {
    eprintln!("crash point {point}: aborting");
    std::process::abort();
}
