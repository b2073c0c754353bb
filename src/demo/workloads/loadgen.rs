//! The customers: steady browsing, a burst now and then, and what should not be tried.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::net::TcpStream;
use tokio::time::interval;

use super::dns::{Family, Names};
use super::{http, lookup, redis};

const WEB: &str = "web.shop.svc.cluster.local";
const REDIS: &str = "redis.data.svc.cluster.local";
/// A name that does not exist.
const MISSPELT: &str = "promotions.shop.svc.cluster.local";

/// Between two pages of steady browsing.
const STEADY: Duration = Duration::from_millis(120);
const BURST: Duration = Duration::from_secs(30);
const BURST_SIZE: usize = 150;
const FORBIDDEN: Duration = Duration::from_secs(4);
const FORBIDDEN_PATIENCE: Duration = Duration::from_millis(2500);
const MISSPELT_EVERY: Duration = Duration::from_secs(10);

/// Runs until ended.
pub(super) async fn run(names: Names) -> Result<()> {
    let names = Arc::new(names);
    tokio::join!(browse(&names), bursts(&names), forbidden(&names), misspelt(&names));
    Ok(())
}

async fn browse(names: &Arc<Names>) {
    let mut tick = interval(STEADY);
    for turn in 0usize.. {
        tick.tick().await;
        tokio::spawn(visit(Arc::clone(names), turn));
    }
}

async fn bursts(names: &Arc<Names>) {
    let mut tick = interval(BURST);
    loop {
        tick.tick().await;
        for turn in 0..BURST_SIZE {
            tokio::spawn(visit(Arc::clone(names), turn));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// One page; failures are the demo's point, and show in the flows.
async fn visit(names: Arc<Names>, turn: usize) {
    let path = match turn % 20 {
        0 | 10 => "/checkout".to_owned(),
        5 => "/search".to_owned(),
        other => format!("/item/{other}"),
    };
    if let Ok(web) = lookup(&names, WEB, Family::V4, 8080).await {
        let _ = http::get(web, WEB, &path).await;
    }
}

/// The network policy of redis does not let us; the attempts are dropped.
async fn forbidden(names: &Names) {
    let mut tick = interval(FORBIDDEN);
    loop {
        tick.tick().await;
        if let Ok(to) = lookup(names, REDIS, Family::V4, redis::PORT).await {
            let _ = tokio::time::timeout(FORBIDDEN_PATIENCE, TcpStream::connect(to)).await;
        }
    }
}

async fn misspelt(names: &Names) {
    let mut tick = interval(MISSPELT_EVERY);
    loop {
        tick.tick().await;
        let _ = names.resolve(MISSPELT, Family::V4).await;
    }
}
