//! The web front: turns each page into a call of the API.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::dns::{Family, Names};
use super::{http, lookup};

const API: &str = "api.shop.svc.cluster.local";
/// A port of the API that nothing listens on: somebody forgot to remove the scrape.
const GONE_PORT: u16 = 9090;
const SCRAPE: Duration = Duration::from_secs(3);

/// Serves port 8080.
pub(super) async fn run(names: Names) -> Result<()> {
    let names = Arc::new(names);
    tokio::spawn(scrape(Arc::clone(&names)));
    http::serve(8080, move |path| page(Arc::clone(&names), path)).await
}

async fn page(names: Arc<Names>, path: String) -> http::Answer {
    let asked = async {
        let api = lookup(&names, API, Family::V4, 8080).await?;
        http::get(api, API, &path).await
    };
    match asked.await {
        Ok((status, body)) => (status, format!("<!doctype html><p>{body}</p>{}", filler(&path))),
        Err(error) => (502, format!("{error:#}\n")),
    }
}

/// Pages are larger than answers of the API: some kilobytes, by path.
fn filler(path: &str) -> String {
    "<p>lorem ipsum dolor sit amet</p>".repeat(40 + path.len() * 8)
}

/// Each attempt is refused.
async fn scrape(names: Arc<Names>) {
    let mut tick = tokio::time::interval(SCRAPE);
    loop {
        tick.tick().await;
        if let Ok(to) = lookup(&names, API, Family::V4, GONE_PORT).await {
            let _ = http::get(to, API, "/metrics").await;
        }
    }
}
