//! The user's command, `weir`: one file a subcommand.

pub mod bpf;
pub mod cleanup;
pub mod client;
pub mod completion;
pub mod config;
pub mod endpoint;
pub mod explain;
pub mod identity;
pub mod map;
pub mod node;
pub mod observe;
pub mod policy;
pub mod service;
pub mod sql;
pub mod status;
pub mod text;
pub mod up;
pub mod why;
