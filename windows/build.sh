#!/usr/bin/env bash
# tanist.exe for Windows 7 SP1 and everything later, made on a plain Debian machine:
#   windows/build.sh [x86_64|i686]
# Installs what it needs when it runs as root, and says what is missing otherwise. Ends with a look at what the program asks of
# Windows (windows/imports.sh).
set -euo pipefail
cd "$(dirname "$0")/.."

arch=${1:-x86_64}
case $arch in
    x86_64) mingw=gcc-mingw-w64-x86-64 ;;
    i686) mingw=gcc-mingw-w64-i686 ;;
    *) echo "windows/build.sh: found '$arch', expected x86_64 or i686" >&2; exit 2 ;;
esac
target=$arch-win7-windows-gnu

# Debian's own toolchain, because it comes with the sources of std: rustup's Windows targets need Windows 10.
tested=1.96.0
export PATH=/usr/bin:/bin
least=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
old_rust() {
    local found
    found=$(rustc --version | cut -d ' ' -f 2)
    [ "$(printf '%s\n' "$least" "$found" | sort -V | head -n 1)" != "$least" ]
}
missing=()
# The three are of one version.
if [ ! -x /usr/bin/rustc ] || [ ! -x /usr/bin/cargo ] || [ ! -e /usr/lib/rustlib/src/rust/library/std/Cargo.toml ] || old_rust; then
    missing+=(rustc-web cargo-web rust-web-src)
fi
[ -x "/usr/bin/$arch-w64-mingw32-gcc" ] || missing+=("$mingw")
[ -x /usr/bin/cc ] || missing+=(gcc)
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "windows/build.sh: missing Debian packages: apt-get install ${missing[*]}" >&2
        exit 3
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
fi
rust=$(rustc --version)
if old_rust; then
    echo "windows/build.sh: found $rust, expected $least or later: Debian 12 has it among its security updates (bookworm-security)" >&2
    exit 3
fi
case $rust in
    "rustc $tested "*) ;;
    *) echo "note: $rust, tested with $tested" >&2 ;;
esac

# The same bytes wherever and whenever it is built from the same sources by the same tools. Cargo cuts the paths off itself: mapped by
# RUSTFLAGS they would be part of the crates' file names, and the linker orders the imports by the paths of their libraries. Some
# are in cargo's home, which therefore is seen from the same place.
mkdir -p "${CARGO_TARGET_DIR:-target}" "${CARGO_HOME:-$HOME/.cargo}"
out=$(realpath "${CARGO_TARGET_DIR:-target}")
home=$(realpath "${CARGO_HOME:-$HOME/.cargo}")
ln -sfn "$home" "$out/cargo-home"
export CARGO_TARGET_DIR=$out CARGO_HOME=$out/cargo-home
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH
export RUSTFLAGS="-Clink-arg=-Wl,--no-insert-timestamp"
export "CFLAGS_${target//-/_}=-ffile-prefix-map=$PWD=/tanist -ffile-prefix-map=$CARGO_HOME=/cargo"
# Std is built along with the program, which only a compiler that may do unstable things does.
export RUSTC_BOOTSTRAP=1 CARGO_INCREMENTAL=0
linker=CARGO_TARGET_${target//-/_}_LINKER
export "${linker^^}=$arch-w64-mingw32-gcc"
cargo build --release --locked -p tanist --bin tanist --target "$target" -Zbuild-std=std,panic_unwind \
    -Ztrim-paths --config 'profile.release.trim-paths="all"'

exe=$out/$target/release/tanist.exe
windows/imports.sh "$exe"
echo "$exe"
echo "  $rust, $("$arch-w64-mingw32-gcc" --version | head -n 1)"
echo "  $(stat -c %s "$exe") bytes, sha256 $(sha256sum "$exe" | cut -d ' ' -f 1)"
