#!/usr/bin/env bash
# The service and the setup program under wine, as Windows 7:
#   windows/tests/service.sh path/to/tanist.exe [path/to/tanist-setup.exe]
# Everything is in a folder of its own and is gone afterwards. What wine can't show (rights, the firewall, shutdown, sleep)
# is in windows/CHECKLIST.md.
set -euo pipefail

wine=$(command -v /usr/lib/wine/wine64 wine64 wine 2>/dev/null | head -n 1 || true)
server=$(command -v /usr/lib/wine/wineserver64 /usr/lib/wine/wineserver wineserver 2>/dev/null | head -n 1 || true)
if [ -z "$wine" ] || [ -z "$server" ]; then
    echo "note: wine is missing (package wine64): the service and the setup program are not tested" >&2
    exit 0
fi
exe=$(realpath "$1")
setup=${2:+$(realpath "$2")}
for tool in curl sqlite3; do
    command -v $tool >/dev/null || { echo "windows/tests/service.sh: $tool is missing" >&2; exit 1; }
done

dir=$(mktemp -d "${TMPDIR:-/tmp}/tanist-wine-XXXXXX")
export WINEPREFIX=$dir/prefix WINEARCH=win64 WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml="
unset DISPLAY
finish() {
    code=$?
    if [ $code != 0 ]; then
        echo "--- failed; what the machine and the setup said:" >&2
        tail -n 40 "$dir"/prefix/drive_c/ProgramData/Tanist/logs/tanist.log "$dir"/prefix/drive_c/Program\ Files/Tanist/install.log >&2 || true
    fi
    exec 9>&-
    # Only this folder's.
    "$server" -k || true
    "$server" -w || true
    rm -rf "$dir"
    exit $code
}
trap finish EXIT

run() { timeout 180 "$wine" "$@" </dev/null; }
say() { echo "== $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
# Until it is so, for two minutes.
until_so() {
    what=$1; shift
    for _ in $(seq 240); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.5
    done
    fail "waited two minutes until $what"
}
free_port() {
    while :; do
        port=$((20000 + RANDOM % 20000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo $port; return; fi
    done
}
c=$dir/prefix/drive_c
data=$c/ProgramData/Tanist
http=$(free_port)
peer=$(free_port)
ready() { curl -fsS --max-time 5 "http://127.0.0.1:$http/readyz"; }
gone() { ! curl -sS --max-time 5 "http://127.0.0.1:$http/healthz"; }
status() { run "$tanist" service status --json "$@"; }
is() { status | tr -d ' \r\n' | grep >/dev/null "\"state\":\"$1\""; }
query() { run "$tanist" query --hosts "127.0.0.1:$http" --json "$1"; }
execute() { run "$tanist" execute --hosts "127.0.0.1:$http" "$1"; }
reg() { run reg query "$1" /v "$2" 2>/dev/null | tr -d '\r'; }
event() { grep -a "ReportEventW L\"$1" "$dir/events" >/dev/null || fail "not in the Event Log: $1"; }
logged() { grep -c "$1" "$data/logs/tanist.log"; }

say "a fresh Windows 7 ($("$wine" --version))"
run wineboot -i >/dev/null 2>&1
run reg add 'HKCU\Software\Wine' /v Version /d win7 /f >/dev/null
"$server" -w
# Somebody is logged on all the time: when nobody is, wine shuts its services down.
mkfifo "$dir/keeper"
# Services get their standard error output from here: wine shows what the Event Log would.
WINEDEBUG=-all,+eventlog timeout 900 "$wine" cmd <"$dir/keeper" >/dev/null 2>"$dir/events" &
exec 9>"$dir/keeper"
until_so "the services are there" grep -a 'starting Event Log Service' "$dir/events"
run cmd /c ver | tr -d '\r' | grep "6\.1\." >/dev/null || fail "wine isn't Windows 7: $(run cmd /c ver)"

tanist='C:\tanist.exe'
cp "$exe" "$c/tanist.exe"

say "install, without a configuration: refused"
if run "$tanist" service install 2>"$dir/said"; then fail "installed without a configuration"; fi
grep -q 'tanist.toml' "$dir/said" || fail "it doesn't name the file: $(cat "$dir/said")"
is none || fail "$(status)"

say "install, start, readiness"
mkdir -p "$data"
if run "$tanist" init --dir 'C:\ProgramData\Tanist' --id pc-1 2>"$dir/said"; then fail "believed a folder of whoever"; fi
grep -q -- '--trust-folder' "$dir/said" || fail "no advice: $(cat "$dir/said")"
[ -z "$(ls "$data")" ] || fail "something was written"
rmdir "$data"
run "$tanist" init --dir 'C:\ProgramData\Tanist' --id pc-1 --member "pc-1=127.0.0.1:$peer,$http" >/dev/null
run "$tanist" service install --trust-folder >/dev/null
is stopped || fail "$(status)"
reg 'HKLM\SYSTEM\CurrentControlSet\Services\EventLog\Application\Tanist' EventMessageFile | grep EventCreate >/dev/null || fail "no event source"
reg 'HKLM\SYSTEM\CurrentControlSet\Services\Tanist' ObjectName | grep 'NT SERVICE.Tanist' >/dev/null || fail "not its own account"
reg 'HKLM\SYSTEM\CurrentControlSet\Services\Tanist' ImagePath | grep 'service run --name Tanist --config' >/dev/null || fail "not its command line"
run "$tanist" service start
is running || fail "$(status)"
until_so "it reigns" ready
execute 'CREATE TABLE t (x)' >/dev/null
execute 'INSERT INTO t VALUES (41)' >/dev/null

say "start again and install again change nothing"
run "$tanist" service start
run "$tanist" service install --trust-folder >/dev/null
is running || fail "$(status)"

say "stop ends well"
run "$tanist" service stop
is stopped || fail "$(status)"
gone || fail "it still answers"
[ "$(logged 'INFO stopped')" = 1 ] || fail "no clean end in the log"
run "$tanist" service stop
for entry in 'tanist runs' 'became master' 'stepped down' 'stopped'; do event "$entry"; done
[ "$(sqlite3 "$data/data/state.db" 'SELECT x FROM t')" = 41 ] || fail "the row isn't in the file"

say "a bad configuration: it doesn't start, and the command says so"
cp "$data/tanist.toml" "$dir/good.toml"
echo 'nonsense = 1' >>"$data/tanist.toml"
if run "$tanist" service start 2>"$dir/said"; then fail "started with a bad configuration"; fi
grep -q 'Event Log' "$dir/said" || fail "no hint: $(cat "$dir/said")"
is failed || fail "$(status)"
event 'tanist has ended: .*nonsense'
cp "$dir/good.toml" "$data/tanist.toml"

say "again, after a stop that was clean, with a write filter; then uninstall while it runs"
filter='HKLM\SYSTEM\CurrentControlSet\Services\fbwf'
run reg add "$filter" /v Start /t REG_DWORD /d 0 /f >/dev/null
run "$tanist" service start
event 'a write filter of Windows is installed.*fbwfmgr'
run reg delete "$filter" /f >/dev/null
until_so "it reigns" ready
grep -q 'clean_stop=true' "$data/logs/tanist.log" || fail "the stop before wasn't clean"
query 'SELECT x FROM t' | grep 41 >/dev/null || fail "the row is gone"
run "$tanist" service uninstall
is none || fail "$(status)"
gone || fail "it still answers"
[ "$(logged 'INFO stopped')" = 2 ] || fail "the second end wasn't clean"
if reg 'HKLM\SYSTEM\CurrentControlSet\Services\EventLog\Application\Tanist' EventMessageFile | grep -q EventCreate; then
    fail "the event source is left"
fi
if run "$tanist" service start 2>"$dir/said"; then fail "started what isn't installed"; fi
grep -q "isn't installed" "$dir/said" || fail "$(cat "$dir/said")"
if run "$tanist" service run --config 'C:\ProgramData\Tanist\tanist.toml' 2>"$dir/said"; then fail "ran outside of the service manager"; fi
grep -q "service manager" "$dir/said" || fail "$(cat "$dir/said")"

if [ -z "$setup" ]; then
    say "the service is fine; no setup program was given"
    exit 0
fi

rm -rf "$data" "$c/tanist.exe"
cp "$setup" "$c/setup.exe"
program="$c/Program Files/Tanist"
tanist='C:\Program Files\Tanist\tanist.exe'
uninstall='HKLM\Software\Microsoft\Windows\CurrentVersion\Uninstall\Tanist'
# Wine can't say whose a folder is.
install() { run 'C:\setup.exe' /S /TRUSTFOLDER "$@"; }
# It goes on from a copy of itself, and its folder goes last.
remove() {
    run 'C:\Program Files\Tanist\uninstall.exe' /S "$1"
    until_so "the program is gone" [ ! -e "$program" ]
}

say "setup, silent, without a name: refused with code 2"
code=0; install || code=$?
[ $code = 2 ] || fail "exit code $code"
[ ! -e "$program/tanist.exe" ] || fail "something was installed"

say "setup, silent, with hosts that make no sense: refused with code 4"
code=0; install /NAME=pc-1 '/HOSTS=pc-2=127.0.0.1' || code=$?
[ $code = 4 ] || fail "exit code $code"
grep -q 'expected one of the members' "$program/install.log" || fail "the log doesn't say why"

say "setup, silent"
install /NAME=pc-1 "/HOSTS=pc-1=127.0.0.1:$peer,$http" "/PEERPORT=$peer" "/HTTPPORT=$http"
until_so "it reigns" ready
is running || fail "$(status)"
reg "$uninstall" DisplayVersion | grep '[0-9]' >/dev/null || fail "not in Add/Remove Programs"
execute 'CREATE TABLE t (x)' >/dev/null
execute 'INSERT INTO t VALUES (42)' >/dev/null
key=$(cat "$data/cluster.key")

say "setup again: an upgrade in place"
install
until_so "it reigns" ready
[ "$(logged 'INFO stopped')" = 1 ] || fail "the old program wasn't stopped well"
[ "$(cat "$data/cluster.key")" = "$key" ] || fail "another key"
query 'SELECT x FROM t' | grep 42 >/dev/null || fail "the row is gone"

say "uninstall, data kept"
remove /KEEPDATA
gone || fail "it still answers"
if reg "$uninstall" DisplayVersion | grep -q '[0-9]'; then fail "still in Add/Remove Programs"; fi
[ "$(sqlite3 "$data/data/state.db" 'SELECT x FROM t')" = 42 ] || fail "the data is gone"

say "setup over the kept data: no parameter is needed"
install
until_so "it reigns" ready
query 'SELECT x FROM t' | grep 42 >/dev/null || fail "the row is gone"

say "uninstall with all data"
remove /REMOVEDATA
gone || fail "it still answers"
[ ! -e "$data" ] || fail "left: $(ls "$data")"
say "service and setup are fine"
