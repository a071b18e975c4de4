#!/usr/bin/env bash
# Tests tanist.exe and its setup program under Wine, told to be Windows 7 SP1:
#   windows/test.sh                              machines alone and together with Linux ones, the service, the setup
#   TANIST_WINE=1 windows/test.sh failover::     other system tests, all machines Windows ones
# Builds the program unless TANIST_EXE names one. Installs what it needs when it runs as root, and says what is missing otherwise.
# One Windows is made in the build's folder for temporary files (700 MB) and used again.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
[ -x /usr/lib/wine/wine64 ] || missing+=(wine64 wine)
for tool in curl sqlite3; do
    command -v $tool >/dev/null || missing+=($tool)
done
if [ $# = 0 ] && ! command -v makensis >/dev/null; then missing+=(nsis); fi
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "windows/test.sh: missing Debian packages: apt-get install ${missing[*]}" >&2
        exit 3
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
fi
if [ -z "${TANIST_EXE:-}" ]; then
    windows/build.sh
    windows/imports.sh --self-test
    TANIST_EXE=${CARGO_TARGET_DIR:-target}/x86_64-win7-windows-gnu/release/tanist.exe
fi
TANIST_EXE=$(realpath "$TANIST_EXE")
export TANIST_EXE
# Each test runs several processes that want the processor in time.
cargo test -p tanist --locked --test system -- --test-threads=1 --nocapture "${1:-windows::}"
if [ $# = 0 ]; then
    setup=$(mktemp -d)
    trap 'rm -r "$setup"' EXIT
    windows/installer/build.sh "$TANIST_EXE" "$setup/tanist-setup.exe"
    windows/tests/service.sh "$TANIST_EXE" "$setup/tanist-setup.exe"
fi
