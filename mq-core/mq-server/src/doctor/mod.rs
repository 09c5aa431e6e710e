//! `mq doctor`: looks at this machine the way a broker will, and says in words what to change.
//!
//! `facts` reads, `checks` judges without touching anything, this file prints. It changes nothing on the machine; the
//! speed of the disk is measured with a small file that is removed again.

mod checks;
mod facts;

use anyhow::{Result, ensure};
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::arguments::{NAMESRV_PORT, StoreOptions};
use crate::banner::say;
use crate::output::Output;
use crate::settings;

#[derive(Debug, Args)]
pub(crate) struct DoctorOptions {
    #[command(flatten)]
    store: StoreOptions,
    /// The name server's port.
    #[arg(long, default_value_t = NAMESRV_PORT)]
    namesrv_port: u16,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Verdict {
    Ok,
    /// It works; under load, or one day, it may not.
    Warn,
    /// A broker does not start here, or loses what it should keep.
    Fail,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Finding {
    verdict: Verdict,
    what: &'static str,
    found: String,
    /// What to do about it; empty when there is nothing to do.
    fix: String,
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, what, found: found.into(), fix: String::new() }
    }

    fn warn(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, what, found: found.into(), fix: fix.into() }
    }

    fn fail(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, what, found: found.into(), fix: fix.into() }
    }
}

/// Fails when a check does; warnings are only printed.
pub(crate) fn run(options: &DoctorOptions) -> Result<()> {
    let config = settings::load(&options.store)?;
    let findings = checks::all(&facts::Facts::gather(&config, options.namesrv_port, options.store.vip));
    match options.output {
        Output::Table => say(table(&findings)),
        Output::Json => say(serde_json::to_string_pretty(&findings)?),
    }
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Fail).count();
    ensure!(failed == 0, "{failed} of {} checks failed", findings.len());
    Ok(())
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["", "what", "found", "what to do"]);
    for finding in findings {
        let verdict = format!("{:?}", finding.verdict).to_uppercase();
        table.add_row([verdict.as_str(), finding.what, &finding.found, &finding.fix]);
    }
    table
}
