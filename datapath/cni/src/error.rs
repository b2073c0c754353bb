//! Errors, with the codes of the specification (section 5, "Error").

use serde::Serialize;

/// Why a verb was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is of a version that this plugin does not speak.
    #[error("cniVersion {0:?} is not supported")]
    Version(String),
    /// A variable of the environment is missing or not valid.
    #[error("{name} {why}")]
    Environment {
        /// The variable.
        name: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Input could not be read or output not written.
    #[error("input or output: {0}")]
    Io(#[from] std::io::Error),
    /// The configuration is no JSON, or not of the form it should have.
    #[error("network configuration: {0}")]
    Decode(#[from] serde_json::Error),
    /// The configuration cannot be carried out.
    #[error("network configuration: {0}")]
    Config(&'static str),
    /// What the plugin before this one made is not there.
    #[error("the container's interface {0} is not in prevResult")]
    Interface(String),
    /// The agent cannot be reached.
    #[error("the agent does not answer on {socket} (is weir-agent running?): {source}")]
    Agent {
        /// Its socket.
        socket: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// An error as it is written to standard output.
#[derive(Debug, Serialize)]
pub struct ErrorReply {
    #[serde(rename = "cniVersion")]
    version: String,
    code: u32,
    msg: String,
}

// === impl Error ===

impl Error {
    /// The code of the specification; from 100 on they are the plugin's own.
    pub fn code(&self) -> u32 {
        match self {
            Self::Version(_) => 1,
            Self::Environment { .. } => 4,
            Self::Io(_) => 5,
            Self::Decode(_) => 6,
            Self::Config(_) => 7,
            Self::Agent { .. } => 50,
            Self::Interface(_) => 100,
        }
    }

    /// The error in the form of the specification.
    pub fn reply(&self, version: &str) -> ErrorReply {
        ErrorReply { version: version.to_owned(), code: self.code(), msg: self.to_string() }
    }
}
