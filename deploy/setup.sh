#!/usr/bin/env bash
# Installs what is missing on a Debian 12 machine. Quick when nothing is.
#
#   deploy/setup.sh demo    what `make demo` needs: Rust, a C compiler, Node, network tools
#   deploy/setup.sh dev     also what tests and the eBPF build need
set -euo pipefail
cd "$(dirname "$0")/.."

tier=${1:-dev}
sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "setup: run as root, or install sudo" >&2; exit 1; }
    sudo=sudo
fi
say() { echo "setup: $*"; }
has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }

# --- packages -----------------------------------------------------------------------------------
missing=()
want() { # want PACKAGE COMMAND-OR-FILE
    case $2 in
        /*) [ -e "$2" ] || missing+=("$1") ;;
        *) has "$2" || missing+=("$1") ;;
    esac
}
want build-essential cc
want iproute2 ip
want iputils-ping ping
want nftables nft
want redis-server redis-server
want curl curl
want ca-certificates /etc/ssl/certs/ca-certificates.crt
want nodejs node
want npm npm
if [ "$tier" = dev ]; then
    want jq jq
    want iperf3 iperf3
    want tcpdump tcpdump
    want ethtool ethtool
    want bpftool bpftool
    want chromium /usr/bin/chromium
    # The eBPF programs' compiler, its core library, and what bpf-linker links against.
    want rustc-web /usr/bin/rustc
    want libstd-rust-web-dev-bpf /usr/lib/rustlib/bpfel-unknown-none
    want llvm-22-dev /usr/lib/llvm-22/bin/llvm-config
    want libpolly-22-dev /usr/lib/llvm-22/lib/libPolly.a
    want zlib1g-dev /usr/include/zlib.h
    want libzstd-dev /usr/include/zstd.h
fi
if [ ${#missing[@]} -gt 0 ]; then
    has apt-get || { echo "setup: please install: ${missing[*]}" >&2; exit 1; }
    say "installing ${missing[*]}"
    # Packages that bring a service (redis-server) must not start it here.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null
        $sudo chmod +x $policy
        trap '$sudo rm -f $policy' EXIT
    fi
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# --- Rust ---------------------------------------------------------------------------------------
export PATH="$HOME/.cargo/bin:$PATH"
channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
if ! has rustup && ! has cargo; then
    say "installing rustup"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
        sh -s -- -y -q --profile minimal --default-toolchain "$channel"
fi
if ! rustc --version 2>/dev/null | grep -q " $channel "; then
    say "installing Rust $channel"
    if ! rustup toolchain install "$channel" --profile minimal -c rustfmt -c clippy; then
        # No download to be had: another installed tool chain of that version serves as well.
        for name in $(rustup toolchain list | cut -d' ' -f1); do
            directory=$(dirname "$(dirname "$(rustup which --toolchain "$name" rustc)")")
            if "$directory/bin/rustc" --version | grep -q " $channel "; then
                rustup toolchain link "$channel" "$directory"
                break
            fi
        done
    fi
    rustc --version | grep -q " $channel " || { echo "setup: no Rust $channel" >&2; exit 1; }
fi
if [ "$tier" = dev ] && ! has bpf-linker; then
    say "building bpf-linker (about a minute)"
    LLVM_PREFIX=/usr/lib/llvm-22 PATH="/usr/lib/llvm-22/bin:$PATH" \
        cargo install -q bpf-linker --version 0.13.0 --locked --no-default-features --features llvm-22
fi

# --- the page -----------------------------------------------------------------------------------
# Vite needs Node 20. Where the distribution's is older, a newer one comes from npm itself.
old_node() { [ "$(node -p 'process.versions.node.split(".")[0]')" -lt 20 ]; }
export PATH="$PWD/target/node/node_modules/node/bin:$PATH"
if old_node; then
    say "installing Node 22 into target/node"
    npm install --silent --no-audit --no-fund --prefix target/node node@22
fi
# Modules are installed again only when the lock file is newer than the last installation.
if [ ui/web/package-lock.json -nt ui/web/node_modules/.package-lock.json ]; then
    say "installing the page's npm modules"
    (cd ui/web && npm ci --no-audit --no-fund --silent && touch node_modules/.package-lock.json)
fi
