#!/usr/bin/env bash
# The setup program, from a tanist.exe that windows/build.sh has made for 64 bits:
#   windows/installer/build.sh path/to/tanist.exe [tanist-setup.exe]
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ] || [ ! -f "$1" ]; then
    echo "windows/installer/build.sh: found '$*', expected an existing tanist.exe and perhaps where the setup shall be" >&2
    exit 2
fi
exe=$(realpath "$1")
out=$(realpath -m "${2:-tanist-setup.exe}")
cd "$(dirname "$0")"
if ! command -v makensis >/dev/null; then
    if [ "$(id -u)" != 0 ]; then
        echo "windows/installer/build.sh: missing Debian package: apt-get install nsis" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nsis >/dev/null
fi
shown=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' ../../Cargo.toml)
# Four numbers are Windows's way.
number=$(echo "$shown" | sed 's/[^0-9.].*//').0
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH
makensis -V2 -WX "-DEXE=$exe" "-DVERSION=$number" "-DSHOWN=$shown" "-DOUT=$out" tanist.nsi
echo "$out"
echo "  $(stat -c %s "$out") bytes, sha256 $(sha256sum "$out" | cut -d ' ' -f 1)"
