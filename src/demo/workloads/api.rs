//! The HTTP API: items from redis over one kept connection, checkout through the cart.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::Mutex;

use super::dns::{Family, Names};
use super::redis::{self, Client};
use super::{http, lookup};

const REDIS: &str = "redis.data.svc.cluster.local";
const CART: &str = "cart.shop.svc.cluster.local";
/// How long a search takes: an index is missing.
const SLOW: Duration = Duration::from_millis(800);

/// A connection to redis that is made again when it breaks.
#[derive(Debug)]
pub(super) struct Redis {
    names: Arc<Names>,
    client: Mutex<Option<Client>>,
}

/// Serves port 8080.
pub(super) async fn run(names: Names) -> Result<()> {
    let names = Arc::new(names);
    let redis = Arc::new(Redis::new(Arc::clone(&names)));
    http::serve(8080, move |path| answer(Arc::clone(&names), Arc::clone(&redis), path)).await
}

async fn answer(names: Arc<Names>, redis: Arc<Redis>, path: String) -> http::Answer {
    let answered = match path.as_str() {
        "/checkout" => checkout(&names).await,
        "/search" => {
            tokio::time::sleep(SLOW).await;
            redis.call(&["GET", "/item/1"]).await.map(|found| (200, format!("{found:?}\n")))
        }
        path => redis.call(&["INCR", path]).await.map(|n| (200, format!("seen {n:?} times\n"))),
    };
    answered.unwrap_or_else(|error| (500, format!("{error:#}\n")))
}

async fn checkout(names: &Names) -> Result<http::Answer> {
    let cart = lookup(names, CART, Family::V6, 8080).await?;
    http::get(cart, CART, "/pay").await
}

// === impl Redis ===

impl Redis {
    /// Not connected before the first call.
    pub(super) fn new(names: Arc<Names>) -> Self {
        Self { names, client: Mutex::new(None) }
    }

    /// One command.
    pub(super) async fn call(&self, words: &[&str]) -> Result<Option<String>> {
        let mut held = self.client.lock().await;
        let mut client = match held.take() {
            Some(client) => client,
            None => {
                let to = lookup(&self.names, REDIS, Family::V4, redis::PORT).await?;
                Client::connect(to).await.context("redis")?
            }
        };
        let answer = client.call(words).await?;
        // Only a connection whose last answer was read whole is kept.
        *held = Some(client);
        Ok(answer)
    }
}
