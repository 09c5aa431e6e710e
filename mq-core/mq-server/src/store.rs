//! `mq store`: looks after the directory of a broker that is stopped.

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use mq_store::{Finding, Severity, VerifyReport};
use serde_json::{Value, json};

use crate::arguments::StoreOptions;
use crate::banner::say;
use crate::output::Output;
use crate::settings;

#[derive(Debug, Args)]
pub(crate) struct StoreCommand {
    #[command(subcommand)]
    command: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Reads every file and says what is damaged, which messages it affects and what to do. Writes nothing.
    Verify {
        #[command(flatten)]
        store: StoreOptions,
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Lets the next start of the broker derive all queues, the index and the timers from the log again.
    Rebuild {
        #[command(flatten)]
        store: StoreOptions,
    },
}

/// Fails when something is damaged.
pub(crate) fn run(command: &StoreCommand) -> Result<()> {
    match &command.command {
        Work::Verify { store, output } => {
            let config = settings::load(store)?;
            let report = mq_broker::verify_store(&config)?;
            match output {
                Output::Table => say(text(&report)),
                Output::Json => say(serde_json::to_string_pretty(&as_json(&report))?),
            }
            let damages = report.findings.iter().filter(|finding| finding.severity > Severity::Doubt).count();
            ensure!(!report.has_damage(), "{} is damaged: {damages} findings", config.store_root.display());
        }
        Work::Rebuild { store } => {
            let config = settings::load(store)?;
            mq_broker::rebuild_store(&config)?;
            say(
                "the next start of the broker reads the whole log and writes all queues, the index and the timers again",
            );
        }
    }
    Ok(())
}

fn text(report: &VerifyReport) -> String {
    let VerifyReport {
        records, queues, queue_entries, index_entries, unprotected_bytes, records_without_queue, ..
    } = report;
    let mut lines: Vec<String> = report.findings.iter().map(finding_text).collect();
    if report.more_findings > 0 {
        lines.push(format!("and {} more findings", report.more_findings));
    }
    lines.push(format!(
        "{records} records in log offsets {}..{}, {unprotected_bytes} bytes without a checksum; {queue_entries} \
         entries of {queues} queues, {index_entries} of the index",
        report.log.start, report.log.end
    ));
    if *records_without_queue > 0 {
        lines.push(format!("{records_without_queue} records belong to topics that were deleted"));
    }
    let verdict = match report.findings.iter().map(|finding| finding.severity).max() {
        None => "whole",
        Some(Severity::Doubt) => "nothing is damaged for sure",
        Some(Severity::Derived) => "damaged, nothing is lost",
        Some(Severity::Lost) => "damaged",
    };
    lines.push(verdict.into());
    lines.join("\n")
}

fn finding_text(finding: &Finding) -> String {
    let mut text = format!("{} {}", severity(finding), finding.path);
    if let Some(bytes) = &finding.bytes {
        text += &format!(" bytes {}..{}", bytes.start, bytes.end);
    }
    text += &format!(": {}", finding.what);
    for run in &finding.affects {
        let (first, last) = (run.offsets.start, run.offsets.end - 1);
        text += &format!("\n    affects topic {} queue {} offsets {first} to {last}", run.topic, run.queue_id);
    }
    text + "\n    " + finding.advice
}

fn severity(finding: &Finding) -> &'static str {
    match finding.severity {
        Severity::Doubt => "DOUBT",
        Severity::Derived => "DERIVED",
        Severity::Lost => "LOST",
    }
}

fn as_json(report: &VerifyReport) -> Value {
    let finding = |finding: &Finding| {
        let affects: Vec<_> = finding
            .affects
            .iter()
            .map(|run| json!({"topic": run.topic, "queueId": run.queue_id.0, "from": run.offsets.start, "to": run.offsets.end}))
            .collect();
        json!({
            "severity": severity(finding),
            "path": finding.path,
            "from": finding.bytes.as_ref().map(|bytes| bytes.start),
            "to": finding.bytes.as_ref().map(|bytes| bytes.end),
            "what": finding.what,
            "affects": affects,
            "advice": finding.advice,
        })
    };
    json!({
        "damaged": report.has_damage(),
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "moreFindings": report.more_findings,
        "records": report.records,
        "logFrom": report.log.start,
        "logTo": report.log.end,
        "unprotectedBytes": report.unprotected_bytes,
        "queues": report.queues,
        "queueEntries": report.queue_entries,
        "indexEntries": report.index_entries,
        "recordsWithoutQueue": report.records_without_queue,
    })
}
