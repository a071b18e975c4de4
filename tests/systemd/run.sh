#!/usr/bin/env bash
# `tanist service` under a real systemd: a Debian with its own systemd boots in namespaces, three machines are installed, stopped,
# killed, configured anew, taken through a reboot, and removed. Needs root, overlayfs and Debian's debootstrap, which makes
# that Debian once, in the build's folder for temporary files (300 MB).
#
#     tests/systemd/run.sh                           # builds tanist first
#     TANIST=target/release/tanist tests/systemd/run.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ "$(id -u)" != 0 ]; then
    echo "tests/systemd/run.sh: a systemd of its own needs root" >&2
    exit 3
fi
cgroups=$(findmnt -t cgroup2 -no TARGET | head -n 1 || true)
if [ -z "$cgroups" ] || ! grep -qw overlay /proc/filesystems; then
    echo "tests/systemd/run.sh: this kernel lacks cgroup2 or overlay, which systemd's own system needs" >&2
    exit 3
fi
if ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq debootstrap >/dev/null
fi
target=$(realpath -m "${CARGO_TARGET_DIR:-$here/../../target}")
if [ -z "${TANIST:-}" ]; then
    (cd "$here/../.." && cargo build --quiet --locked -p tanist)
    TANIST=$target/debug/tanist
fi

# The same release as here: the program is linked with its libraries.
release=$(. /etc/os-release; [ "$ID" = debian ] && echo "$VERSION_CODENAME" || echo bookworm)
base=$target/tmp/systemd-$release
if [ ! -e "$base/ready" ]; then
    rm -rf "$base"
    mkdir -p "$base"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,passwd,procps,curl "$release" "$base" http://deb.debian.org/debian >"$base.log" ||
        { tail "$base.log" >&2; exit 1; }
    touch "$base/ready"
fi

work=$(mktemp -d)
box=$cgroups/tanist-test-$$
mkdir "$work/disk" "$box"
mount -t tmpfs -o size=512m tmpfs "$work/disk"
mkdir "$work/disk/upper" "$work/disk/work" "$work/root"
mount -t overlay -o "lowerdir=$base,upperdir=$work/disk/upper,workdir=$work/disk/work" overlay "$work/root"
root=$work/root
: >"$root/etc/machine-id"
install -m 755 "$TANIST" "$root/usr/local/bin/tanist"
keeper=
power_off() {
    [ -n "$keeper" ] || return 0
    inside 'systemctl --no-block poweroff' || true
    for _ in $(seq 300); do
        kill -0 "$keeper" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$keeper" 2>/dev/null || true
    wait "$keeper" 2>/dev/null || true
    keeper=
}
finish() {
    code=$?
    if [ $code != 0 ] && [ -n "$keeper" ]; then
        echo "--- failed; what the services said:" >&2
        inside 'journalctl --no-pager -o short-monotonic -n 60 -u t1 -u t2 -u t3' >&2 || true
    fi
    power_off
    umount "$root" "$work/disk"
    rm -rf "$work"
    find "$box" -depth -type d -exec rmdir {} + || true
    exit $code
}
trap finish EXIT

# As on a computer that is switched on: systemd is process 1 of its own processes, network, mounts and control groups.
boot() {
    (
        echo $BASHPID >"$box/cgroup.procs"
        exec unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child bash -euc '
            root=$1
            mount --make-rprivate /
            mount -t proc proc "$root/proc"
            mount -t sysfs -o ro sysfs "$root/sys"
            mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
            mount -t tmpfs -o mode=755 tmpfs "$root/dev"
            for node in null zero full random urandom tty; do
                touch "$root/dev/$node"
                mount --bind "/dev/$node" "$root/dev/$node"
            done
            ln -s /proc/self/fd "$root/dev/fd"
            mkdir "$root/dev/shm" "$root/dev/pts"
            mount -t tmpfs tmpfs "$root/dev/shm"
            mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
            ln -s pts/ptmx "$root/dev/ptmx"
            mount -t tmpfs -o mode=755 tmpfs "$root/run"
            cd "$root"
            pivot_root . mnt
            umount -l /mnt
            hostname tanist-test
            exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
        ' boot "$root" </dev/null >"$work/console" 2>&1
    ) &
    keeper=$!
    until_so "systemd has booted" inside 'systemctl is-system-running --wait >/dev/null || systemctl is-system-running | grep degraded'
}
inside() {
    local first
    first=$(pgrep -P "$keeper") || return
    timeout 60 nsenter -t "$first" -m -p -u -i -n -C env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 bash -uc "cd /; $1"
}
say() { echo "== $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
until_so() { # what, command
    for _ in $(seq 300); do
        if "${@:2}" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    fail "waited in vain until $1"
}
expect() { # what, text, command inside
    local found
    found=$(inside "$3" 2>&1) || true
    grep -q -- "$2" <<<"$found" || fail "$1: expected '$2', found: $found"
}
hosts=127.0.0.1:8081,127.0.0.1:8082,127.0.0.1:8083
ready() { inside "curl -fsS --max-time 2 http://127.0.0.1:808$1/readyz"; }
master() { inside "tanist status --hosts $hosts --json" | sed -n 's/.*"master": "t\([123]\)".*/\1/p' | head -n 1; }
reigns() { [ -n "$(master)" ]; }
another_reigns() { [ -n "$(master)" ] && [ "$(master)" != "$1" ]; }
in_step() { [ "$(inside "tanist status --hosts $hosts --json" | grep -c '"progress": "stream"')" = 2 ]; }
count() { inside "tanist query --hosts $hosts 'SELECT count(*) FROM t'" | tail -n 1 | tr -d ' '; }

say "boot"
boot
expect "a service that isn't there" "not installed" "tanist service status --name t1"
expect "no configuration" "/etc/t1/tanist.toml" "tanist service install --name t1 --config /etc/t1/tanist.toml"

say "install and start three"
for n in 1 2 3; do
    inside "tanist init --dir /etc/t$n --data-dir /var/lib/t$n --id t$n $(printf -- '--member t%d=127.0.0.1:745%d,808%d ' 1 1 1 2 2 2 3 3 3) >/dev/null"
    if [ $n != 1 ]; then inside "cp /etc/t1/cluster.key /etc/t$n/cluster.key"; fi
    inside "tanist service install --name t$n --config /etc/t$n/tanist.toml --start >/dev/null"
    # Started means that it listens.
    inside "curl -fsS http://127.0.0.1:808$n/healthz >/dev/null"
    expect "status" '"state": "running"' "tanist service status --name t$n --json"
    expect "who runs it" '^tanist$' "ps -o user= -p \$(systemctl show -p MainPID --value t$n)"
    expect "the key's rights" '^640 root tanist$' "stat -c '%a %U %G' /etc/t$n/cluster.key"
    expect "the data's rights" '^700 tanist tanist$' "stat -c '%a %U %G' /var/lib/t$n"
    expect "the database's rights" '^600 tanist tanist$' "stat -c '%a %U %G' /var/lib/t$n/state.db"
    expect "what doctor says of the key" 'ok *secrecy' "tanist doctor --config /etc/t$n/tanist.toml"
done
until_so "one reigns" reigns
inside "tanist execute --hosts $hosts 'CREATE TABLE t(x)' && tanist execute --hosts $hosts 'INSERT INTO t VALUES (1)'" >/dev/null
expect "installed again" "It runs already" "tanist service install --name t1 --config /etc/t1/tanist.toml --start"

say "reload"
inside "sed -i 's/^statements = 1000/statements = 5/' /etc/t2/tanist.toml && systemctl reload t2"
until_so "it was read" inside "journalctl -u t2 -o cat | grep 'asked to read the configuration'"
until_so "it counts" inside "journalctl -u t2 -o cat | grep 'the configuration has changed.*limits.statements'"

say "stop of the master: the next one reigns at once"
old=$(master)
inside "tanist service stop --name t$old >/dev/null"
expect "status" '"state": "stopped"' "tanist service status --name t$old --json"
inside "journalctl -u t$old -o cat | grep -q 'INFO stopped'" || fail "no clean end"
inside "tanist execute --hosts $hosts 'INSERT INTO t VALUES (2)'" >/dev/null
another_reigns "$old" || fail "nobody took over from t$old"
inside "tanist service start --name t$old >/dev/null"

say "kill -9 of the master: the next one reigns, and systemd starts it again"
until_so "it is in step" in_step
old=$(master)
inside "systemctl kill --kill-whom=main --signal=KILL t$old"
inside "tanist execute --hosts $hosts 'INSERT INTO t VALUES (3)'" >/dev/null
another_reigns "$old" || fail "nobody took over from t$old"
until_so "it is started again" inside "[ \$(systemctl show -p NRestarts --value t$old) = 1 ] && systemctl is-active t$old"
until_so "it takes part" inside "curl -fsS http://127.0.0.1:808$old/healthz"

say "reboot: all end well, and begin by themselves"
power_off
boot
for n in 1 2 3; do
    until_so "t$n runs" inside "systemctl is-active t$n"
    inside "journalctl -u t$n -o cat | grep -q 'clean_stop=true'" || fail "t$n wasn't ended well: $(inside "journalctl -u t$n -o cat -n 20")"
done
until_so "one reigns" reigns
[ "$(count)" = 3 ] || fail "rows: $(count)"

say "a bad configuration: it doesn't start, and that is said"
inside "tanist service stop --name t3 >/dev/null; echo 'nonsense = 1' >>/etc/t3/tanist.toml"
expect "start" "journalctl -u t3" "tanist service start --name t3"
expect "the journal" "nonsense" "journalctl -u t3 -o cat -n 30"

say "uninstall"
for n in 1 2 3; do
    inside "tanist service uninstall --name t$n >/dev/null"
    expect "status" "not installed" "tanist service status --name t$n"
    inside "test -e /var/lib/t$n/state.db && test -e /etc/t$n/cluster.key" || fail "data of t$n is gone"
done
if inside "pgrep tanist"; then fail "something still runs"; fi
say "done"
