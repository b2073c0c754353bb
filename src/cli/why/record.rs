//! What the store has of a connection.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use datapath_agent::local::question::Server;
use serde_json::{Value, json};

use crate::cli::client::Client;

/// Two ends, as conditions of a query.
#[derive(Debug)]
pub(super) struct Pair {
    source: End,
    destination: End,
    port: Option<u16>,
}

#[derive(Debug)]
enum End {
    Address(IpAddr),
    Pod { namespace: String, name: String },
}

// === impl Pair ===

impl Pair {
    /// As the user wrote them; the agent or the store will say whether they exist.
    pub(super) fn new(source: &str, destination: &str) -> Self {
        let Server { end, port, .. } = Server::split(destination);
        let port = port.and_then(|port| port.parse().ok());
        Self { source: End::new(source), destination: End::new(end), port }
    }

    /// Their addresses, once they are known.
    pub(super) fn addresses(&mut self, source: IpAddr, destination: IpAddr) {
        self.source = End::Address(source);
        self.destination = End::Address(destination);
    }

    /// The latest flow between them, and drops either way. What one end let through and the other refused at
    /// about the same time was refused.
    pub(super) async fn look(
        &self,
        client: &Client,
        since: Duration,
    ) -> Result<(Option<Value>, Vec<Value>)> {
        let seconds = since.as_secs().max(1);
        let port = self.port.map(|port| format!(" AND destination_port = {port}"));
        let port = port.unwrap_or_default();
        let there = format!(
            "{} AND {}{port}",
            self.source.is("source"),
            self.destination.is("destination")
        );
        let back =
            format!("{} AND {}", self.destination.is("source"), self.source.is("destination"));
        let latest = format!(
            "SELECT flow_id FROM flows WHERE end_time > now() - INTERVAL '{seconds} seconds' AND {there} \
             ORDER BY CASE verdict WHEN 'DROPPED' THEN end_time + INTERVAL '30 seconds' ELSE end_time END \
             DESC LIMIT 1"
        );
        let latest = rows(client, &latest).await?;
        let recorded = match latest.first().and_then(|row| row["flow_id"].as_str()) {
            Some(id) => Some(client.json(&format!("/flows/{id}"), &[]).await?),
            None => None,
        };
        let drops = format!(
            "SELECT node, source_ip, destination_ip, drop_reason, kernel_reason, drop_location, \
             sum(packets) AS packets, max(time) AS time FROM drops \
             WHERE time > now() - INTERVAL '{seconds} seconds' AND (({there}) OR ({back})) \
             GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY packets DESC LIMIT 20"
        );
        Ok((recorded, rows(client, &drops).await?))
    }
}

// === impl End ===

impl End {
    fn new(text: &str) -> Self {
        if let Ok(address) = text.parse() {
            return Self::Address(address);
        }
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        Self::Pod { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn is(&self, side: &str) -> String {
        match self {
            Self::Address(address) => format!("{side}_ip = '{address}'"),
            Self::Pod { namespace, name } => format!(
                "{side}_namespace = {} AND {side}_pod = {}",
                quoted(namespace),
                quoted(name)
            ),
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

async fn rows(client: &Client, query: &str) -> Result<Vec<Value>> {
    let answer = client.sql(query, "application/x-ndjson", None).await?.text().await?;
    let lines = answer.lines().filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_str(line).context("the relay's answer")).collect()
}

/// Source and destination of a recorded flow, as a question for the agent.
pub(super) fn question(recorded: &Value) -> Option<(String, String)> {
    let row = recorded["intervals"].as_array()?.last()?;
    let word = |column: &str| row[column].as_str();
    let (source, destination) = (word("source_ip")?, word("destination_ip")?);
    let reached = word("backend_ip").unwrap_or(destination);
    let port = row["backend_port"].as_u64().or(row["destination_port"].as_u64());
    let asked = match word("protocol")?.to_ascii_lowercase().as_str() {
        protocol @ ("tcp" | "udp" | "sctp") => {
            let port = port?;
            if reached.contains(':') {
                format!("[{reached}]:{port}/{protocol}")
            } else {
                format!("{reached}:{port}/{protocol}")
            }
        }
        "icmpv4" | "icmpv6" => format!("{reached}/icmp"),
        _ => return None,
    };
    Some((source.to_owned(), asked))
}

/// Drops, each with what its reason means; without those of Weir's own policy, which the flow itself tells of.
pub(super) fn explained(mut drops: Vec<Value>) -> Vec<Value> {
    drops.retain(|drop| drop["drop_location"] != "weir");
    for drop in &mut drops {
        let word = |column: &str| drop[column].as_str().unwrap_or_default();
        if let Some(help) = model::drop_help(word("kernel_reason"), word("drop_location")) {
            drop["help"] = json!(help);
        }
    }
    drops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_become_conditions() {
        let pair = Pair::new("shop/we'b", "[fd00::2]:53/udp");
        assert_eq!(pair.source.is("source"), "source_namespace = 'shop' AND source_pod = 'we''b'");
        assert_eq!(pair.destination.is("destination"), "destination_ip = 'fd00::2'");
        assert_eq!(pair.port, Some(53));
        let pair = Pair::new("10.0.0.1", "shop/db/icmp");
        assert_eq!(
            pair.destination.is("destination"),
            "destination_namespace = 'shop' AND destination_pod = 'db'"
        );
        assert_eq!(pair.port, None);
    }

    #[test]
    fn a_recorded_flow_is_asked_about_where_it_went() {
        let flow = |row: Value| json!({ "intervals": [row] });
        let row = json!({"source_ip": "10.0.0.1", "destination_ip": "10.96.0.1", "destination_port": 80,
            "backend_ip": "10.0.0.9", "backend_port": 8080, "protocol": "TCP"});
        let asked = ("10.0.0.1".to_owned(), "10.0.0.9:8080/tcp".to_owned());
        assert_eq!(question(&flow(row)), Some(asked));
        let row =
            json!({"source_ip": "fd00::1", "destination_ip": "fd00::2", "protocol": "ICMPv6"});
        assert_eq!(question(&flow(row)).unwrap().1, "fd00::2/icmp");
        let row = json!({"source_ip": "10.0.0.1", "destination_ip": "10.0.0.2", "protocol": "47"});
        assert_eq!(question(&flow(row)), None);
    }

    #[test]
    fn drops_say_what_they_mean() {
        let drops = vec![json!({"kernel_reason": "NO_SOCKET"}), json!({"kernel_reason": null})];
        let drops = explained(drops);
        assert!(drops[0]["help"].as_str().unwrap().contains("Nobody listens"));
        assert!(drops[1]["help"].is_null());
    }
}
