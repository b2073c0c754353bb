//! The cart: pays at a provider outside the cluster, remembers in redis.

use std::sync::Arc;

use anyhow::Result;

use super::api::Redis;
use super::dns::{Family, Names};
use super::{http, lookup};
use crate::demo::cast::PAYMENTS;

/// Serves port 8080.
pub(super) async fn run(names: Names) -> Result<()> {
    let names = Arc::new(names);
    let redis = Arc::new(Redis::new(Arc::clone(&names)));
    http::serve(8080, move |_| {
        let (names, redis) = (Arc::clone(&names), Arc::clone(&redis));
        async move { pay(&names, &redis).await.unwrap_or_else(|error| (502, format!("{error:#}\n"))) }
    })
    .await
}

async fn pay(names: &Names, redis: &Redis) -> Result<http::Answer> {
    let to = lookup(names, PAYMENTS, Family::V4, 80).await?;
    let (status, body) = http::get(to, PAYMENTS, "/charge").await?;
    redis.call(&["INCR", "paid"]).await?;
    Ok((status, body))
}
