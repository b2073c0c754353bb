#!/usr/bin/env bash
# Runs every suite, keeps a log of each in target/test-logs, and ends with one line:
#   N passed, M failed, K skipped
# Exit code 1 when anything failed, or, in CI, when a test was skipped without a reason.
set -uo pipefail
cd "$(dirname "$0")/.."

logs=target/test-logs
rm -rf $logs
mkdir -p $logs
passed=0 failed=0 skipped=0
broken=()

# Test binaries make namespaces and load eBPF programs. Built as whoever runs this, run as root.
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "the tests need root (network namespaces, eBPF)" >&2; exit 2; }
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sudo -E"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="sudo -E"
    export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER
fi
export CARGO_TERM_COLOR=never

# count SUITE SECONDS PASSED FAILED SKIPPED
count() {
    passed=$((passed + $3)) failed=$((failed + $4)) skipped=$((skipped + $5))
    printf '%-10s %4s passed %3s failed %3s skipped  %5s s\n' "$1" "$3" "$4" "$5" "$2"
    [ "$4" = 0 ] || broken+=("$1")
}

# A check that passes or fails as a whole.
check() { # check SUITE COMMAND…
    local suite=$1 start=$SECONDS
    shift
    echo "== $suite: $*"
    if "$@" >"$logs/$suite.log" 2>&1; then
        count "$suite" $((SECONDS - start)) 1 0 0
    else
        tail -40 "$logs/$suite.log"
        count "$suite" $((SECONDS - start)) 0 1 0
    fi
}

rust() {
    local log=$logs/rust.log start=$SECONDS status sums
    echo "== rust: cargo test --workspace"
    cargo test --workspace --locked --no-fail-fast 2>&1 | tee "$log" |
        grep --line-buffered -E '^(error|warning: unused|     Running|   Doc-tests|test result:|test .*(FAILED|ignored))'
    status=${PIPESTATUS[0]}
    sums=$(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored.*/\1 \2 \3/p' "$log" |
        awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0 }')
    read -r p f s <<<"$sums"
    # Something else than a test: it did not compile, or a test ended the process.
    if [ "$status" != 0 ] && [ "$f" = 0 ]; then
        grep -A12 '^error' "$log" | head -60
        f=1
    fi
    sed -n '/^failures:$/,/^test result/p' "$log"
    count rust $((SECONDS - start)) "$p" "$f" "$s"
    if [ -n "${CI:-}" ] && grep -E '^test .* \.\.\. ignored$' "$log"; then
        echo "skipped without a reason, which CI does not take"
        count skips 0 0 1 0
    fi
}

page() {
    local report=$logs/page.json start=$SECONDS
    echo "== page: vitest"
    if ! (cd ui/web && npx vitest run --reporter=json --outputFile="../../$report") >"$logs/page.log" 2>&1; then
        tail -40 "$logs/page.log"
    fi
    if [ -s "$report" ]; then
        read -r p f s <<<"$(jq -r '"\(.numPassedTests) \(.numFailedTests) \(.numPendingTests + .numTodoTests)"' "$report")"
    else
        p=0 f=1 s=0
    fi
    count page $((SECONDS - start)) "$p" "$f" "$s"
}

# The page of a running demo, in a real browser. Prints its own "N passed, M failed".
browser() {
    local start=$SECONDS log=$logs/browser.log
    echo "== browser: the demo's page in Chromium"
    node tests/browser/run.mjs >"$log" 2>&1
    local status=$?
    read -r p f <<<"$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log" | tail -1)"
    if [ -z "${f:-}" ] || { [ "$status" != 0 ] && [ "$f" = 0 ]; }; then
        p=${p:-0} f=1
    fi
    [ "$f" = 0 ] || tail -60 "$log"
    count browser $((SECONDS - start)) "$p" "$f" 0
}

# The object in other kernels. Where it cannot run it says so, here and at the end.
kernels() {
    local start=$SECONDS log=$logs/kernels.log status=0
    echo "== kernels: the eBPF object in Linux 6.1 and 6.12"
    datapath/loader/tests/kernels/run.sh >"$log" 2>&1 || status=$?
    case $status in
        0)
            p=$(sed -n 's/^test result: .* \([0-9]*\) passed.*/\1/p' "$log" | awk '{ p += $1 } END { print p }')
            count kernels $((SECONDS - start)) "$p" 0 0
            ;;
        77)
            untested=$(grep '^KERNELS NOT TESTED' "$log")
            echo "$untested"
            count kernels $((SECONDS - start)) 0 0 1
            ;;
        *)
            tail -60 "$log"
            count kernels $((SECONDS - start)) 0 1 0
            ;;
    esac
}

check format cargo fmt --all --check
check format-ebpf cargo fmt --manifest-path datapath/ebpf/Cargo.toml --check
check clippy cargo clippy --workspace --all-targets --locked -- -D warnings
rust
# What is committed as the eBPF object is what its sources make.
check object env WEIR_BPF_REBUILD=1 \
    cargo test --locked -p datapath-loader --test kernel is_built_from_these_sources
check types npm --prefix ui/web run --silent check
page
browser
untested=
[ "${WEIR_LONG:-0}" = 0 ] || kernels

[ -z "$untested" ] || echo "$untested"
if [ ${#broken[@]} -gt 0 ]; then
    echo "failed: ${broken[*]} (logs in $logs)"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
