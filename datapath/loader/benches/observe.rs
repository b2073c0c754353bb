//! Placeholder until the programs settle.
fn main() {}
