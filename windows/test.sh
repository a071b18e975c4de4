#!/usr/bin/env bash
# Tests tanist.exe under Wine, told to be Windows 7 SP1:
#   windows/test.sh                              Windows machines alone and together with Linux ones
#   TANIST_WINE=1 windows/test.sh failover::     other system tests, all machines Windows ones
# Builds the program unless TANIST_EXE names one. Wants Debian's wine64; one Windows is made in the build's folder for temporary files
# (700 MB) and used again.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -x /usr/lib/wine/wine64 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "windows/test.sh: missing Debian packages: apt-get install wine64 wine" >&2
        exit 3
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq wine64 wine >/dev/null
fi
windows/imports.sh --self-test
if [ -z "${TANIST_EXE:-}" ]; then
    windows/build.sh
    TANIST_EXE=$(realpath "${CARGO_TARGET_DIR:-target}/x86_64-win7-windows-gnu/release/tanist.exe")
    export TANIST_EXE
fi
# Each test runs several processes that want the processor in time.
cargo test -p tanist --locked --test system -- --test-threads=1 --nocapture "${1:-windows::}"
