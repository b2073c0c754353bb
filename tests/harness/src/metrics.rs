//! `/metrics` of a process.

use std::net::SocketAddr;

use crate::{Netns, Result, http};

/// Samples in the Prometheus text format.
#[derive(Debug, Clone)]
pub struct Metrics {
    text: String,
}

// === impl Metrics ===

impl Metrics {
    /// Asks the process at `address`, from inside `netns` if there is one.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn scrape(netns: Option<&Netns>, address: SocketAddr) -> Result<Self> {
        let get = || http::get(address, "/metrics");
        let answer = match netns {
            Some(netns) => netns.run(get)??,
            None => get()?,
        };
        Ok(Self { text: answer.text() })
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Sum of the samples of `name` that have every one of `labels`.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.samples(name)
            .filter(|(found, _)| {
                labels.iter().all(|(key, value)| found.contains(&format!("{key}=\"{value}\"")))
            })
            .map(|(_, value)| value as u64)
            .sum()
    }

    /// Labels (as text) and value of each sample.
    fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.text.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            (labels.is_empty() || labels.starts_with('{')).then_some(())?;
            Some((labels, value.parse().ok()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_what_matches() {
        let text =
            "# HELP a\na 1\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4\n".to_owned();
        let metrics = Metrics { text };
        assert_eq!(metrics.sum("a", &[]), 1);
        assert_eq!(metrics.sum("a_total", &[("x", "1")]), 7);
        assert_eq!(metrics.sum("a_total", &[("y", "3")]), 4);
        assert_eq!(metrics.sum("b", &[]), 0);
    }
}
