//! The engine, natively: packets as tables, connections as stories, laws, and a fuzz campaign.

mod engine {
    pub(crate) mod build;
    pub(crate) mod sim;
    pub(crate) mod wild;

    mod account;
    mod answer;
    mod enforce;
    mod flow_cache;
    mod fuzz;
    mod laws;
    mod nat;
    mod parse;
    mod tcp;
}
