//! Transactions as an operator sees and settles them: our own codes 7001 to 7005 and 7007, and the same as a JSON API. Times are in
//! milliseconds since 1970. A half is named by its queue offset in the half topic of its broker (`half`), the copy of one
//! that was given up by its queue offset in the topic of those (`parked`): the two are never taken for each other.

use serde::{Deserialize, Serialize};

/// TXN_LIST (7001): halves without a verdict, or the copies of those that were given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TxnQuery {
    pub parked: bool,
    /// The first one; `next` of the page before.
    pub from: u64,
    pub limit: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Where the message is to be published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

impl TxnQuery {
    /// Rows of one answer.
    pub const MOST: usize = 1000;
}

impl Default for TxnQuery {
    fn default() -> Self {
        Self { parked: false, from: 0, limit: 100, group: None, topic: None }
    }
}

/// The answer to 7001.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TxnPage {
    pub rows: Vec<TxnHalf>,
    /// There may be more from here on, also after a page without rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// Records that cannot be read as halves. They hold nobody up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<QuarantinedRecord>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TxnState {
    #[default]
    Open,
    Committed,
    RolledBack,
    /// Given up: it waits for an operator.
    Parked,
    /// It was given up, and is asked about again as another half.
    Resumed,
}

/// A half message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TxnHalf {
    /// In the half topic; of a given-up one the half that it was, which Apache's brokers do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half: Option<u64>,
    /// Of a given-up one: its copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked: Option<u64>,
    pub state: TxnState,
    /// The unique key that its client gave it.
    pub transaction_id: String,
    /// What the messages of one verdict share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_id: Option<String>,
    pub part: u16,
    pub parts: u16,
    pub group: String,
    pub topic: String,
    pub queue_id: u32,
    pub keys: String,
    /// Who sent it, while the broker remembers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The address that it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub born_host: Option<String>,
    pub born_at: i64,
    /// Of a given-up one: when it was given up.
    pub stored_at: i64,
    /// Questions that were handed to a client; of an ended one as far as the broker remembers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checks: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_checks: Option<u32>,
    /// Of an open one: attempts in a row that found nobody to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unasked: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_check_at: Option<i64>,
    /// Why it was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of the half that a given-up one became again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed_as: Option<u64>,
    /// Names the record, for `mqadmin queryMsgById`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset_id: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QuarantinedRecord {
    pub half: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_offset: Option<u64>,
    pub reason: String,
    pub at: i64,
}

/// TXN_SHOW (7002): by half, or copy, else by group and transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TxnName {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<String>,
}

/// The answer to 7002.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TxnShown {
    pub half: TxnHalf,
    /// The halves that its verdict ends, itself among them.
    pub members: Vec<u64>,
    /// What happened to it, as far as the broker remembers or its copy says; the oldest first.
    pub history: Vec<TxnEvent>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TxnEvent {
    pub at: i64,
    pub half: u64,
    /// A sentence.
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl TxnEvent {
    /// `by` of what the broker did unasked.
    pub const THE_BROKER: &str = "the broker";
    /// How `by` begins of what was done by hand.
    pub const OPERATOR: &str = "operator ";
    /// The whole of `what`: its client sent the half.
    pub const SENT: &str = "sent it";
    /// How `what` begins of an answer, before the verdict.
    pub const SAID: &str = "said ";
    /// Between a verdict that changed nothing, and why.
    pub const REFUSED: &str = ", refused: ";
    /// In that reason, where the half had another outcome by then.
    pub const ALREADY: &str = "already ";
    /// How `what` begins of a giving up, before the reason.
    pub const PARKED: &str = "parked: ";
}

/// TXN_CHECK (7003), TXN_RESOLVE (7004) and TXN_RESUME (7005): what an operator does to one half.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TxnDeed {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half: Option<u64>,
    /// Instead of it, for 7004 and 7005.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked: Option<u64>,
    /// For 7004 and 7005 the transaction's id once more, so that nobody settles another one by a slip.
    pub confirm: String,
    /// For 7004.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<TxnVerdict>,
    /// The operator's name, for the audit.
    pub by: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TxnVerdict {
    Commit,
    Rollback,
}

/// The answer to 7003 to 7005.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TxnDone {
    /// A sentence.
    pub done: String,
}

/// TXN_RESUME_ALL (7007): the given-up halves that wait on a page of the parked list ([`TxnQuery`] with the same fields).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TxnResumeAll {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    pub from: u64,
    /// Copies that the page looks at.
    pub limit: usize,
    /// How many of them wait, as the operator was told: if another number does, nothing is done.
    pub confirm: String,
    /// The operator's name, for the audit.
    pub by: String,
}

impl Default for TxnResumeAll {
    fn default() -> Self {
        let TxnQuery { from, limit, .. } = TxnQuery::default();
        Self { group: None, topic: None, from, limit, confirm: String::new(), by: String::new() }
    }
}

/// The answer to 7007.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TxnResumedAll {
    /// A sentence.
    pub done: String,
    /// Halves that are asked about again.
    pub resumed: u64,
    /// Those that stay as they were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<TxnRefused>,
    /// There may be more from here on: the page's end, or what it had no time for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TxnRefused {
    pub parked: u64,
    pub reason: String,
}
