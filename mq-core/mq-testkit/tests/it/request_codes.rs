//! `docs/PROTOCOL.md` says of every request code what the broker and the name server make of it; this keeps it true.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_protocol::codes::{request, response};
use mq_protocol::command::Command;
use mq_testkit::cluster::{Cluster, ClusterOptions};
use mq_testkit::wire::Peer;

const PAGE: &str = include_str!("../../../../docs/PROTOCOL.md");
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

/// What a server makes of a code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Handled,
    /// With this response code, always.
    Refused(i32),
}

impl Fate {
    fn parse(cell: &str) -> Option<Self> {
        match cell.split_once(' ') {
            None if cell == "handled" => Some(Self::Handled),
            Some(("refused", code)) => code.parse().ok().map(Self::Refused),
            _ => None,
        }
    }

    /// An empty request is malformed to whoever serves its code, and says nothing new to whoever does not.
    fn ask(server: SocketAddr, code: i32) -> Result<i32> {
        let mut peer = Peer::connect(server)?;
        let answer = peer.ask(Command::request(code), ANSWERED_WITHIN);
        Ok(answer.with_context(|| format!("{server} gave no answer to an empty request {code}"))?.code)
    }

    fn is_kept(self, answered: i32) -> bool {
        match self {
            Self::Handled => answered != response::REQUEST_CODE_NOT_SUPPORTED,
            Self::Refused(code) => answered == code,
        }
    }
}

/// A row of the page: `| code | name | broker | name server | remark |`.
struct Row {
    name: String,
    broker: Fate,
    name_server: Fate,
}

fn rows() -> Result<BTreeMap<i32, Row>> {
    let mut rows = BTreeMap::new();
    for line in PAGE.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, code, name, broker, name_server, _, _] = cells[..] else { continue };
        let Ok(code) = code.parse::<i32>() else { continue };
        let fate = |cell| Fate::parse(cell).with_context(|| format!("docs/PROTOCOL.md, code {code}: {cell:?}"));
        let row = Row { name: name.into(), broker: fate(broker)?, name_server: fate(name_server)? };
        ensure!(rows.insert(code, row).is_none(), "docs/PROTOCOL.md has code {code} twice");
    }
    Ok(rows)
}

#[test]
fn the_page_of_request_codes_names_every_code() -> Result<()> {
    let rows = rows()?;
    let named: BTreeMap<i32, &str> = rows.iter().map(|(code, row)| (*code, row.name.as_str())).collect();
    assert_eq!(named, request::ALL.iter().copied().collect());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_code_is_served_as_the_page_says() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::default()).await?;
    let (broker, name_server) = (cluster.broker, cluster.name_server);
    let (asked, wrong) = tokio::task::spawn_blocking(move || -> Result<_> {
        let (mut asked, mut wrong) = (0, String::new());
        for (code, row) in rows()? {
            for (server, address, fate) in
                [("broker", broker, row.broker), ("name server", name_server, row.name_server)]
            {
                let answered = Fate::ask(address, code)?;
                asked += 1;
                if !fate.is_kept(answered) {
                    writeln!(wrong, "{code} {}: the {server} answered {answered}, not {fate:?}", row.name)?;
                }
            }
        }
        Ok((asked, wrong))
    })
    .await??;
    assert!(wrong.is_empty(), "docs/PROTOCOL.md is wrong:\n{wrong}");
    println!("request codes: {} of {asked} answers as docs/PROTOCOL.md says", asked);
    cluster.stop().await
}
