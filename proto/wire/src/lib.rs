//! Weir's gRPC interfaces, generated from `proto/*.proto` and committed.
//!
//! `tests/generated.rs` generates them again and fails when they differ; run it with
//! `WEIR_WRITE=1` to write them. No protoc is needed, neither to build nor to generate.

#![forbid(unsafe_code)]

/// The export stream (`proto/export.proto`).
pub mod export {
    #![allow(
        missing_docs,
        clippy::all,
        unreachable_pub,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    include!("generated/weir.export.v1.rs");
}

/// What an agent answers to its own node (`proto/agent.proto`).
pub mod agent {
    #![allow(
        missing_docs,
        clippy::all,
        unreachable_pub,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    include!("generated/weir.agent.v1.rs");
}

/// Encoded file descriptors of every interface, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");
