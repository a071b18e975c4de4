#!/usr/bin/env bash
# What a firewall costs that lets nobody see that a process has ended, as that of Windows does: three machines in a network of their
# own, ROUNDS killed masters (default 10) each without such a firewall, with it, and with it and end notices. Prints the longest times
# without an acknowledged write; fails when a write is lost. TANIST names the program, otherwise it is built. 3: something is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -z "${OWN_NETWORK:-}" ]; then
    if ! command -v nft >/dev/null; then
        if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
            echo "tests/firewall/run.sh: missing Debian package: nftables" >&2
            exit 3
        fi
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nftables >/dev/null
    fi
    if [ -z "${TANIST:-}" ]; then
        cargo build --release --locked --quiet
        TANIST=${CARGO_TARGET_DIR:-target}/release/tanist
    fi
    TANIST=$(realpath "$TANIST") OWN_NETWORK=1 exec unshare -rn bash "$0"
fi

ip link set lo up
work=$(mktemp -d)
dev=
finish() {
    if [ -n "$dev" ]; then
        kill "$dev" 2>/dev/null || true
        wait "$dev" || true
    fi
    rm -rf "$work"
}
trap finish EXIT

start() {
    : >"$work/log"
    "$TANIST" dev --restart --dir "$work/cluster" >"$work/log" 2>&1 &
    dev=$!
    for _ in $(seq 300); do
        grep -qi dashboard "$work/log" && return
        sleep 0.1
    done
    cat "$work/log" >&2
    exit 1
}
stop() {
    kill "$dev"
    wait "$dev" || true
    dev=
}
measure() {
    printf '\n== %s\n' "$1"
    start
    "$TANIST" bench --dev-dir "$work/cluster" --failover --rounds "${ROUNDS:-10}" 2>&1 | tail -n 3
    stop
}

measure "no firewall"
# What a system says of a port without a listener has the sequence number 0; what ends a connection passes.
if ! { nft add table inet firewall &&
    nft add chain inet firewall output '{ type filter hook output priority 0; }' &&
    nft add rule inet firewall output tcp sequence 0 'tcp flags & rst == rst' drop; }; then
    echo "tests/firewall/run.sh: this computer's kernel filters no packets" >&2
    exit 3
fi
measure "a firewall that drops refusals"
for file in "$work"/cluster/*/tanist.toml; do
    printf '\n[timing]\nend_notice = true\n' >>"$file"
done
measure "the same, with end notices"
