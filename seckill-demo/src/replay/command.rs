//! The command `seckill-demo replay`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use tokio_util::sync::CancellationToken;

use super::{ReplayOptions, paid_no_red_packet};
use crate::config::{ReplayArgs, Scenario};

pub async fn run(args: ReplayArgs, shutdown: CancellationToken) -> Result<ExitCode> {
    if cfg!(not(feature = "failpoints")) {
        bail!("this program was built without crash points: run `make replay`, or build with --features failpoints");
    }
    let temporary = tempfile::tempdir()?;
    let data = args.data.clone().unwrap_or_else(|| temporary.path().to_owned());
    let options = ReplayOptions { points: args.points, orders: args.orders, data };
    let Scenario::PaidNoRedPacket = args.scenario;
    let report = tokio::select! {
        report = paid_no_red_packet(options, |progress| eprint(&format!("\r{progress} cases"))) => report,
        () = shutdown.cancelled() => return Ok(ExitCode::FAILURE),
    };
    eprint("\r");
    let report = match report {
        Ok(report) => report,
        Err(error) if args.data.is_none() => {
            // The logs that the error names are all there is to find out why.
            let kept = temporary.keep();
            return Err(error.context(format!("files and logs are kept in {}", kept.display())));
        }
        Err(error) => return Err(error),
    };
    let mut out = std::io::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        writeln!(out, "{}", report.table())?;
        for sentence in report.proof.sentences() {
            writeln!(out, "{sentence}")?;
        }
    }
    Ok(if report.proof.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Progress is for people who watch; one who does not see it misses nothing.
fn eprint(text: &str) {
    let mut err = std::io::stderr();
    let _ = write!(err, "{text}").and_then(|()| err.flush());
}
