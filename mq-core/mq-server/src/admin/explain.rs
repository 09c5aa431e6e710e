//! `mq explain`: what became of a business key. How that is found out is `mq-client`'s; this shows it.

use anyhow::{Result, ensure};
use clap::Args;
use mq_client::explain::{Explanation, Source, Stage};
use mq_client::{Admin, ClientOptions};

use super::{Reach, Sheet, moment};

/// Of a unique key, in a table of several messages.
const SHOWN_ID_CHARS: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct ExplainOptions {
    #[command(flatten)]
    reach: Reach,
    /// The business key: a word of the messages' KEYS (an order number, say), or a unique key.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key: String,
    /// Only messages of this topic; of all the users' when it is left out.
    #[arg(long)]
    topic: Option<String>,
}

/// Succeeds also where steps are missing: they are the answer. Fails, as `grep` does, where nothing has the key; the
/// document is printed all the same.
pub(crate) async fn explain(options: &ExplainOptions) -> Result<()> {
    let admin = Admin::new(ClientOptions::new(&options.reach.namesrv))?;
    if let Some(topic) = &options.topic {
        admin.route(topic).await.map_err(|error| options.reach.hinted(error.into()))?;
    }
    let explained = admin.explain(&options.key, options.topic.as_deref()).await;
    let explanation = explained.map_err(|error| options.reach.hinted(error.into()))?;
    timeline(&explanation).document(serde_json::to_value(&explanation)?).print(options.reach.output)?;
    ensure!(!explanation.timeline.is_empty(), "nothing is known of {}", options.key);
    Ok(())
}

fn timeline(explanation: &Explanation) -> Sheet {
    let several = explanation.timeline.iter().any(|step| step.message != explanation.timeline[0].message);
    let mut sheet = Sheet::new(&["at", "step", "what", "who says so"]);
    for step in &explanation.timeline {
        let what = if several { format!("{}: {}", short(&step.message), step.what) } else { step.what.clone() };
        sheet.row([moment::show(step.at), word(step.stage).into(), what.into(), source(step.source).into()]);
    }
    let missing = explanation.missing.iter().map(|one| {
        let whose =
            if several && !one.message.is_empty() { format!(" of {}", short(&one.message)) } else { String::new() };
        let fix = if one.fix.is_empty() { String::new() } else { format!("\n    {}", one.fix) };
        format!("missing: {}{whose}: {}{fix}", word(one.stage), one.why)
    });
    let missing: Vec<String> = missing.collect();
    sheet.remark(if missing.is_empty() { "nothing is missing".to_owned() } else { missing.join("\n") })
}

/// The end of a unique key, which tells those of one producer apart; a document has all of it.
fn short(id: &str) -> String {
    match id.char_indices().rev().nth(SHOWN_ID_CHARS - 1) {
        Some((at, _)) if at > 0 => format!("…{}", &id[at..]),
        _ => id.to_owned(),
    }
}

fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Half => "half message",
        Stage::Check => "check",
        Stage::Operator => "operator",
        Stage::Parked => "parked",
        Stage::Verdict => "verdict",
        Stage::Delayed => "delay",
        Stage::Visible => "message",
        Stage::Delivery => "delivery",
        Stage::Retry => "retry",
        Stage::Inbox => "inbox",
        Stage::DeadLetter => "dead letter",
    }
}

fn source(source: Source) -> &'static str {
    match source {
        Source::Log => "log",
        Source::Broker => "broker",
        Source::Trace => "trace",
        Source::Consumer => "consumer",
    }
}
