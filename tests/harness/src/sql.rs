//! `POST /api/v1/sql`, with typed answers.

use std::net::SocketAddr;

use serde_json::Value;

use crate::{Error, Result, http};

/// Asks one relay.
#[derive(Debug, Clone, Copy)]
pub struct Sql {
    address: SocketAddr,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Column names in order.
    pub columns: Vec<String>,
    /// Rows of JSON values.
    pub rows: Vec<Vec<Value>>,
    /// What is known to be missing.
    pub completeness: Value,
}

// === impl Sql ===

impl Sql {
    /// Asks the relay at `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Runs a query.
    ///
    /// # Errors
    /// With the server's message, when it refuses.
    pub fn query(&self, query: &str) -> Result<Rows> {
        let headers = [("accept", "application/json"), ("content-type", "text/plain")];
        let path = "/api/v1/sql";
        let response = http::request(self.address, "POST", path, &headers, query.as_bytes())?;
        let parsed = (response.status == 200).then(|| Rows::parse(&response.json())).flatten();
        parsed.ok_or_else(|| Error::Http {
            url: format!("http://{}{path}: {query}", self.address),
            what: format!("{} {}", response.status, response.text()),
        })
    }

    /// Runs a query whose answer is one number; NULL is 0.
    ///
    /// # Errors
    /// As [`query`](Self::query), or when the answer is something else.
    pub fn number(&self, query: &str) -> Result<u64> {
        let rows = self.query(query)?;
        rows.number(0, 0).ok_or_else(|| Error::Http {
            url: format!("http://{}: {query}", self.address),
            what: format!("not a number: {:?}", rows.rows),
        })
    }
}

// === impl Rows ===

impl Rows {
    fn parse(json: &Value) -> Option<Self> {
        let columns = json["schema"].as_array()?;
        let columns = columns.iter().map(|c| c["name"].as_str().map(str::to_owned));
        let rows = json["rows"].as_array()?.iter().map(|row| row.as_array().cloned());
        Some(Self {
            columns: columns.collect::<Option<_>>()?,
            rows: rows.collect::<Option<_>>()?,
            completeness: json["completeness"].clone(),
        })
    }

    /// A number in row `row` and column `column`; NULL is 0, anything else is `None`.
    pub fn number(&self, row: usize, column: usize) -> Option<u64> {
        match self.rows.get(row)?.get(column)? {
            Value::Null => Some(0),
            // Sums of UInt64 may come as decimals or strings, depending on the engine's type.
            Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        }
    }

    /// A text in row `row` and column `column`; empty when it is none.
    pub fn text(&self, row: usize, column: usize) -> &str {
        self.rows
            .get(row)
            .and_then(|row| row.get(column))
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}
