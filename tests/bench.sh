#!/usr/bin/env bash
# Runs every benchmark. Each prints its rows with ratios, and writes target/bench/NAME.json.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "the benchmarks need root (eBPF test runs, namespaces)" >&2; exit 2; }
mkdir -p target/bench
export CARGO_TERM_COLOR=never WEIR_BENCH_DIR="$PWD/target/bench"

# In the crates: per packet, event, batch and row.
cargo bench --workspace --locked --benches
# Of whole processes: memory and processor time of an agent with nothing to do, and under the demo's load.
cargo build --profile bench --locked --bins
cargo run --profile bench --locked -q -p harness --example cost
echo "written:"
ls target/bench/*.json
