//! `seckill-demo up --check`: the journeys of the shop, tried over HTTP like a user would, each with what must hold.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::programs::{ADMIN_TOKEN, Addresses};

const BUYERS: usize = 2_000;
const PIECES: u64 = 100;
/// Buyers that are inside the shop at once.
const CROWD: usize = 200;
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// One thing that was tried.
#[derive(Clone, Debug)]
pub struct Tried {
    pub what: &'static str,
    pub seen: String,
    pub holds: bool,
}

/// Tries everything, the later steps also when an earlier one failed.
pub async fn try_all(at: Addresses) -> Vec<Tried> {
    let shop = Shop { at, http: reqwest::Client::new() };
    vec![
        tried("order → pay → exactly one red packet", shop.order_to_red_packet().await),
        tried("flash sale: 2,000 buyers press twice, 100 pieces → 100 orders, one per user", shop.flash_sale().await),
        tried("unpaid order closed, its stock back once", shop.unpaid_order().await),
    ]
}

#[must_use]
pub fn table(tried: &[Tried]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(["tried", "seen", ""]);
    for Tried { what, seen, holds } in tried {
        table.add_row([*what, seen, if *holds { "PASS" } else { "FAIL" }]);
    }
    table.to_string()
}

fn tried(what: &'static str, result: Result<String>) -> Tried {
    let holds = result.is_ok();
    Tried { what, seen: result.unwrap_or_else(|error| format!("{error:#}")), holds }
}

#[derive(Clone)]
struct Shop {
    at: Addresses,
    http: reqwest::Client,
}

impl Shop {
    async fn order_to_red_packet(&self) -> Result<String> {
        let started = Instant::now();
        let orders = format!("http://{}/orders", self.at.orders);
        let place = self.http.post(&orders).header("x-user", "ada").header("idempotency-key", "check-1");
        let placed = ok(place.json(&json!({"item": "tea", "unit_price_minor": 8_800}))).await?;
        let id = placed["id"].as_str().context("the answer has no id")?.to_owned();
        ok(self.http.post(format!("{orders}/{id}/pay")).header("x-user", "ada")).await?;
        let packet = format!("http://{}/packets/{id}", self.at.red_packets);
        let packet = until("the red packet", || async { ok(self.http.get(&packet)).await.ok() }).await?;
        let order = ok(self.http.get(format!("{orders}/{id}")).header("x-user", "ada")).await?;
        expect("order state", &order["state"], "paid")?;
        let amount = packet["amount_minor"].as_i64().context("a packet has an amount")?;
        Ok(format!("paid, packet of {amount} minor units, {:.1} s", started.elapsed().as_secs_f64()))
    }

    async fn flash_sale(&self) -> Result<String> {
        let started = Instant::now();
        self.open_sale("rush", PIECES).await?;
        let mut buyers = JoinSet::new();
        let (mut queued, mut turned_away) = (Vec::new(), 0);
        for buyer in 0..BUYERS {
            if buyers.len() >= CROWD {
                count(buyers.join_next().await.context("somebody is buying")??, &mut queued, &mut turned_away)?;
            }
            let (shop, user) = (self.clone(), format!("buyer-{buyer}"));
            buyers.spawn(async move { shop.press_twice("rush", &user).await });
        }
        while let Some(bought) = buyers.join_next().await {
            count(bought?, &mut queued, &mut turned_away)?;
        }
        let sale = self.settled("rush", |sale| {
            sale["database"]["orders"] == PIECES && sale["gate"]["left"] == 0 && sale["database"]["left"] == 0
        });
        let sale = sale.await?;
        let users: HashSet<&String> = queued.iter().collect();
        if queued.len() as u64 != PIECES || users.len() != queued.len() || turned_away != BUYERS - queued.len() {
            bail!("{} purchases of {} users, {turned_away} turned away: {sale}", queued.len(), users.len());
        }
        Ok(format!(
            "{} bought, {turned_away} turned away, {} orders; Redis and database agree, {:.1} s",
            queued.len(),
            sale["database"]["orders"],
            started.elapsed().as_secs_f64()
        ))
    }

    async fn unpaid_order(&self) -> Result<String> {
        let started = Instant::now();
        self.open_sale("forgetful", 1).await?;
        let purchase = self.buy("forgetful", "bob").await?.context("bob was turned away")?;
        let url = format!("http://{}/sales/forgetful/purchases/{}", self.at.sale, purchase.id);
        let closed = || async {
            let progress = ok(self.http.get(&url).header("x-user", "bob")).await.ok()?;
            progress.to_string().contains("closed").then_some(progress)
        };
        until("the order to be closed", closed).await?;
        self.settled("forgetful", |sale| sale["gate"]["left"] == 1 && sale["database"]["left"] == 1).await?;
        Ok(format!("closed, 1 of 1 free again in Redis and database, {:.1} s", started.elapsed().as_secs_f64()))
    }

    async fn open_sale(&self, id: &str, pieces: u64) -> Result<()> {
        let sales = format!("http://{}/sales", self.at.sale);
        let new = json!({"id": id, "item": "phone", "unit_price_minor": 99_900, "pieces": pieces});
        ok(self.http.post(&sales).header("x-admin-token", ADMIN_TOKEN).json(&new)).await?;
        ok(self.http.post(format!("{sales}/{id}/warm-up")).header("x-admin-token", ADMIN_TOKEN)).await?;
        Ok(())
    }

    /// An impatient buyer: two requests at once, of which at most one may get a piece.
    async fn press_twice(&self, sale: &str, user: &str) -> Result<Option<Purchase>> {
        match tokio::try_join!(self.buy(sale, user), self.buy(sale, user))? {
            (Some(_), Some(_)) => bail!("{user} bought twice"),
            (first, second) => Ok(first.or(second)),
        }
    }

    /// `None`: turned away, because the pieces are sold out or this buyer has one.
    async fn buy(&self, sale: &str, user: &str) -> Result<Option<Purchase>> {
        let url = format!("http://{}/sales/{sale}/purchases", self.at.sale);
        let reply = self.http.post(url).header("x-user", user).json(&json!({})).send().await?;
        let status = reply.status();
        let body: Value = reply.json().await?;
        match body["purchase_id"].as_str() {
            Some(id) if status.is_success() => Ok(Some(Purchase { id: id.to_owned(), user: user.to_owned() })),
            _ if body["error"] == "sold_out" || body["error"] == "limited" => Ok(None),
            _ => bail!("{user} got {status}: {body}"),
        }
    }

    /// The sale's figures, once they are as they must become; and both sides add up.
    async fn settled(&self, sale: &str, as_wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let url = format!("http://{}/sales/{sale}", self.at.sale);
        let look = || async { ok(self.http.get(&url)).await.ok().filter(|sale| as_wanted(sale)) };
        let Ok(sale) = until("the sale to settle", look).await else {
            bail!("the sale did not settle within {LIMIT:?}: {}", ok(self.http.get(&url)).await?);
        };
        for side in ["gate", "database"] {
            let figure =
                |name: &str| sale[side][name].as_i64().with_context(|| format!("{side} has no {name}: {sale}"));
            if figure("sold")? + figure("reserved")? + figure("left")? != figure("initial")? {
                bail!("sold + reserved + left is not the initial stock in the {side}: {sale}");
            }
        }
        Ok(sale)
    }
}

struct Purchase {
    id: String,
    user: String,
}

fn count(bought: Result<Option<Purchase>>, queued: &mut Vec<String>, turned_away: &mut usize) -> Result<()> {
    match bought? {
        Some(purchase) => queued.push(purchase.user),
        None => *turned_away += 1,
    }
    Ok(())
}

async fn ok(request: reqwest::RequestBuilder) -> Result<Value> {
    let reply = request.send().await?;
    let status = reply.status();
    let text = reply.text().await?;
    if !status.is_success() {
        bail!("{status}: {text}");
    }
    Ok(serde_json::from_str(&text)?)
}

fn expect(what: &str, seen: &Value, wanted: &str) -> Result<()> {
    if seen == wanted { Ok(()) } else { bail!("{what} is {seen}, not {wanted}") }
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("waited {LIMIT:?} for {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}
