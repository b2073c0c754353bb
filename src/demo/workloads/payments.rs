//! A payments provider outside the cluster: slow, and sometimes unavailable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;

use super::http;

/// One charge in so many fails.
const FAILS: u64 = 12;

/// Serves port 80.
pub(super) async fn run() -> Result<()> {
    let charges = Arc::new(AtomicU64::new(0));
    http::serve(80, move |_| {
        let number = charges.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(Duration::from_millis(60 + number * 37 % 240)).await;
            match number % FAILS {
                0 => (503, "try again later\n".to_owned()),
                _ => (200, format!("charged, receipt {number}\n")),
            }
        }
    })
    .await
}
