//! The client of the HTTP API.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{HeaderMap, Method, Request, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Where the API is.
#[derive(Debug, Clone, clap::Args)]
pub struct Server {
    /// The relay's HTTP API.
    #[arg(long, env = "WEIR_SERVER", value_name = "URL", default_value = "http://127.0.0.1:4280")]
    pub server: String,
}

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    inner: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Answer {
    /// Its headers.
    pub headers: HeaderMap,
    /// What the server said after the body.
    pub trailers: HeaderMap,
    body: Incoming,
    rest: Vec<u8>,
}

/// How complete an answer is.
#[derive(Debug, Clone, Default, Deserialize)]
#[expect(missing_docs, reason = "the fields of docs/http-api.md")]
pub struct Completeness {
    pub nodes_expected: u32,
    pub nodes_reporting: u32,
    pub lost_events: u64,
    pub lost_flows: u64,
    pub unattributed_bytes: u64,
    pub late_ms: Option<u64>,
    pub complete: bool,
    #[serde(default)]
    pub causes: Vec<Loss>,
}

/// Something that was lost.
#[derive(Debug, Clone, Default, Deserialize)]
#[expect(missing_docs, reason = "the fields of docs/http-api.md")]
pub struct Loss {
    pub stage: Option<String>,
    pub cause: Option<String>,
    pub node: Option<String>,
    #[serde(default)]
    pub events: u64,
    #[serde(default)]
    pub flows: u64,
    #[serde(default)]
    pub bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Failure {
    error: FailureFields,
}

#[derive(Debug, Deserialize)]
struct FailureFields {
    message: String,
    hint: Option<String>,
}

// === impl Server ===

impl Server {
    /// A client of it.
    ///
    /// # Errors
    /// When the address is no `http://host:port`.
    pub fn client(&self) -> Result<Client> {
        let base = self.server.trim_end_matches('/');
        let base = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
        let uri: Uri = base.parse().with_context(|| format!("--server {base:?}"))?;
        if uri.scheme_str() != Some("http") || uri.host().is_none() {
            bail!("--server {base:?}: expected http://host:port");
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        let inner =
            hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Client { base, inner })
    }
}

// === impl Client ===

impl Client {
    /// Where it connects to.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// JSON of a path below `/api/v1`.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn json<T: DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(String, String)],
    ) -> Result<T> {
        let text = self.get(path, parameters, &[]).await?.text().await?;
        serde_json::from_str(&text).with_context(|| format!("{}{path} answered", self.base))
    }

    /// The answer of a path below `/api/v1`.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn get(
        &self,
        path: &str,
        parameters: &[(String, String)],
        headers: &[(&'static str, &str)],
    ) -> Result<Answer> {
        let mut uri = format!("{}/api/v1{path}", self.base);
        for (at, (name, value)) in parameters.iter().enumerate() {
            uri.push(if at == 0 { '?' } else { '&' });
            encode(&mut uri, name);
            uri.push('=');
            encode(&mut uri, value);
        }
        let mut request = Request::builder().method(Method::GET).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::default())?).await
    }

    /// Runs SQL; the answer comes in the format `accept`.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn sql(
        &self,
        query: &str,
        accept: &str,
        timeout: Option<Duration>,
    ) -> Result<Answer> {
        let mut body = serde_json::json!({ "query": query });
        if let Some(timeout) = timeout {
            body["timeout_ms"] = u64::try_from(timeout.as_millis())?.into();
        }
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/api/v1/sql", self.base))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, accept)
            .header("te", "trailers");
        self.send(request.body(Full::from(body.to_string()))?).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let response = self.inner.request(request).await.map_err(|error| {
            let error = anyhow::Error::new(error);
            anyhow!(
                "cannot reach {}: {} (is `weir up` or weir-relay running? --server says where)",
                self.base,
                error.root_cause()
            )
        })?;
        let status = response.status();
        let (head, body) = response.into_parts();
        let answer =
            Answer { headers: head.headers, trailers: HeaderMap::new(), body, rest: Vec::new() };
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.unwrap_or_default();
        match serde_json::from_str::<Failure>(&text) {
            Ok(Failure { error }) => Err(error.into()),
            Err(_) => bail!("{} answered {status}", self.base),
        }
    }
}

impl From<FailureFields> for anyhow::Error {
    fn from(error: FailureFields) -> Self {
        match error.hint {
            Some(hint) => anyhow!("{}\nhint: {hint}", error.message),
            None => anyhow!(error.message),
        }
    }
}

// === impl Answer ===

impl Answer {
    /// How complete it is, when it says so in a header.
    pub fn completeness(&self) -> Option<Completeness> {
        let header = self.headers.get("weir-completeness")?;
        serde_json::from_slice(header.as_bytes()).ok()
    }

    /// Whether there would have been more rows.
    pub fn truncated(&self) -> bool {
        self.trailers.get("weir-stats").is_some_and(|stats| {
            serde_json::from_slice::<serde_json::Value>(stats.as_bytes())
                .is_ok_and(|stats| stats["truncated"] == true)
        })
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When the connection breaks off, which is how an answer that fails late ends.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.context("the answer broke off before its end")?;
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Ok(Some(data)),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.trailers = trailers;
                    }
                }
            }
        }
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// When the connection breaks off, or a line is no UTF-8.
    pub async fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(Some(String::from_utf8(line)?.trim_end().to_owned()));
            }
            match self.chunk().await? {
                Some(chunk) => self.rest.extend_from_slice(&chunk),
                None if self.rest.is_empty() => return Ok(None),
                None => {
                    let line = std::mem::take(&mut self.rest);
                    return Ok(Some(String::from_utf8(line)?));
                }
            }
        }
    }

    /// All of it, as text.
    ///
    /// # Errors
    /// When the connection breaks off, or it is no UTF-8.
    pub async fn text(mut self) -> Result<String> {
        let mut all = std::mem::take(&mut self.rest);
        while let Some(chunk) = self.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8(all)?)
    }
}

// === impl Completeness ===

impl Completeness {
    /// One line about what is missing; `None` when nothing is.
    pub fn summary(&self) -> Option<String> {
        if self.complete {
            return None;
        }
        let mut parts = Vec::new();
        if self.nodes_reporting < self.nodes_expected {
            parts.push(format!("{} of {} nodes report", self.nodes_reporting, self.nodes_expected));
        }
        if self.lost_flows > 0 {
            parts.push(format!("{} flows lost", self.lost_flows));
        }
        if self.lost_events > 0 {
            parts.push(format!("{} events lost", self.lost_events));
        }
        for cause in self.causes.iter().take(3) {
            parts.push(cause.text());
        }
        if parts.is_empty() {
            parts.push("something is missing".to_owned());
        }
        Some(format!("incomplete: {}", parts.join(", ")))
    }
}

// === impl Loss ===

impl Loss {
    /// `ring/full at node-a: 7 events`.
    pub fn text(&self) -> String {
        let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "?".to_owned());
        let mut text = format!("{}/{}", word(&self.stage), word(&self.cause));
        if let Some(node) = &self.node {
            text.push_str(&format!(" at {node}"));
        }
        let counts: Vec<String> =
            [(self.events, "events"), (self.flows, "flows"), (self.bytes, "bytes")]
                .into_iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{count} {what}"))
                .collect();
        if !counts.is_empty() {
            text.push_str(&format!(": {}", counts.join(", ")));
        }
        text
    }
}

/// Percent-encodes what is not unreserved (RFC 3986, 2.3).
fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        let client = |server: &str| Server { server: server.to_owned() }.client();
        assert_eq!(client("127.0.0.1:4280").unwrap().base(), "http://127.0.0.1:4280");
        assert_eq!(client("http://relay:4280/").unwrap().base(), "http://relay:4280");
        assert!(client("https://relay").is_err());
        assert!(client("").is_err());
    }

    #[test]
    fn what_is_missing_in_a_line() {
        let mut it = Completeness { complete: true, ..Completeness::default() };
        assert_eq!(it.summary(), None);
        it.complete = false;
        it.nodes_expected = 3;
        it.nodes_reporting = 2;
        it.causes = vec![Loss {
            stage: Some("ring".to_owned()),
            cause: Some("full".to_owned()),
            node: Some("a".to_owned()),
            events: 7,
            ..Loss::default()
        }];
        assert_eq!(
            it.summary().unwrap(),
            "incomplete: 2 of 3 nodes report, ring/full at a: 7 events"
        );
    }
}
