//! Asking the agent of this node, over its own socket.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use serde::de::DeserializeOwned;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use wire::agent::Answer;
use wire::agent::agent_client::AgentClient;

/// Largest answer, bytes: the policy tables of a large node.
const MAX_ANSWER: usize = 256 << 20;

/// Where the agent is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Socket {
    /// The socket of this node's agent.
    #[arg(
        long,
        value_name = "PATH",
        env = "WEIR_AGENT_SOCKET",
        default_value = "/var/run/weir/agent.sock"
    )]
    pub agent_socket: PathBuf,
}

/// Formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

// === impl Socket ===

impl Socket {
    /// A client of the agent.
    ///
    /// # Errors
    /// When there is none, or this user may not ask.
    pub async fn connect(&self) -> Result<AgentClient<Channel>> {
        let path = std::path::absolute(&self.agent_socket)?;
        let uri = format!("unix://{}", path.display());
        let channel = Endpoint::from_shared(uri)?.connect().await.map_err(|error| {
            let error = anyhow::Error::new(error);
            anyhow!(
                "cannot ask the agent at {}: {} (is it running? are you root? --agent-socket says where it is)",
                path.display(),
                error.root_cause()
            )
        })?;
        Ok(AgentClient::new(channel).max_decoding_message_size(MAX_ANSWER))
    }
}

/// The JSON of an answer, and what it says.
///
/// # Errors
/// What the agent objects to, in its words.
pub fn read<T: DeserializeOwned>(
    answer: Result<Response<Answer>, Status>,
) -> Result<(serde_json::Value, T)> {
    let json = answer.map_err(words)?.into_inner().json;
    let value = serde_json::from_str(&json).context("the agent's answer")?;
    let typed = serde_json::from_str(&json)
        .context("the agent's answer (is it of another version than this command?)")?;
    Ok((value, typed))
}

/// An agent's error, for people.
pub fn words(status: Status) -> anyhow::Error {
    match status.code() {
        Code::Unimplemented => anyhow!("the agent is of an older version and cannot answer this"),
        _ => anyhow!("{}", status.message()),
    }
}
