#!/usr/bin/env bash
# Two industrial controllers in hot standby and a witness, one fault after the other. Everything runs on this computer, in a
# temporary directory, and ends with the script. README.md tells the story.
#
#     examples/controllers/run.sh                  # builds tanist first
#     TANIST=/usr/bin/tanist examples/controllers/run.sh
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"

say "Two controllers, and a witness that votes and holds no data."
lay_out ctl-1 ctl-2 witness,witness
for machine in ctl-1 ctl-2 witness; do start "$machine"; done
await "a controller reigns" "$TANIST" execute "CREATE TABLE part(n INTEGER PRIMARY KEY)"
await "ctl-1 reigns" "$TANIST" promote ctl-1
"$TANIST" status

# The line: a part is made, and it is made only once its number stands on both controllers.
line() {
    local n
    n=$(wc -l <"$work/made")
    while [ ! -e "$work/stop" ]; do
        n=$((n + 1))
        "$TANIST" execute --key "part-$n" -p "$n" "INSERT INTO part VALUES (?)" >/dev/null || return 1
        echo "$n" >>"$work/made"
    done
}
touch "$work/made"
start_line() {
    rm -f "$work/stop"
    line &
    the_line=$!
    running+=($!)
}
stop_line() {
    touch "$work/stop"
    wait "$the_line" || fail "the line met an error"
    [ "$(value "SELECT count(*) FROM part")" = "$(wc -l <"$work/made")" ] || fail "parts were lost or counted twice"
}
made() { wc -l <"$work/made"; }
more() {
    local wanted=$(($(made) + $1))
    has() { [ "$(made)" -ge "$wanted" ]; }
    await "$1 more parts are made" has
}

say "The line runs, and ctl-1 dies (kill -9)."
start_line
more 20
crash ctl-1
more 20
stop_line
is_master ctl-2 || fail "ctl-2 should reign"
echo "ctl-2 has taken over. $(made) parts made, $(value "SELECT count(*) FROM part") counted."

say "ctl-1 is repaired and catches up by itself. Then it takes over as planned, there and back, while requests come without a pause."
start ctl-1
both() { [ "$("$TANIST" status --json | tr -d ' \n' | grep -oE '"sync_set":\[[^]]*\]' | grep -o ctl | wc -l)" = 2 ]; }
await "both controllers hold everything" both
# Plain curl, which repeats nothing: a request that fails is seen.
ask() {
    local to=$1 n=0 body='{"statements":[{"sql":"UPDATE part SET n = n WHERE n = 1"}]}'
    while [ ! -e "$work/stop" ]; do
        curl -sSf -L -o /dev/null -H 'content-type: application/json' -d "$body" "http://${address[$to]}:8080/v1/execute" \
            2>>"$work/errors" && n=$((n + 1)) || echo "$to" >>"$work/failed"
        echo "$n" >"$work/asked-$to"
    done
}
rm -f "$work/stop"
touch "$work/failed"
asking=()
for controller in ctl-1 ctl-2; do ask "$controller" & asking+=($!); running+=($!); done
asked() { { cat "$work"/asked-* 2>/dev/null || true; } | awk '{ n += $1 } END { print n + 0 }'; }
for next in ctl-1 ctl-2 ctl-1; do
    before=$(asked)
    enough() { [ "$(asked)" -ge $((before + 20)) ]; }
    await "requests are answered" enough
    await "$next has caught up" both
    await "$next reigns" "$TANIST" promote "$next"
done
touch "$work/stop"
wait "${asking[@]}"
[ ! -s "$work/failed" ] || fail "$(wc -l <"$work/failed") requests failed: $(cat "$work/errors")"
echo "$(asked) requests, none failed."

say "The witness dies: the line goes on. Then the master dies too, and ctl-2 is alone: it can't know who is the bad one, and waits."
await "both controllers hold everything" both
crash witness
start_line
more 10
stop_line
await "both controllers hold everything" both
crash ctl-1
# Exit code 3: surely nothing was done. (4 would be "unknown": a request that came before the machine was sure.)
is_refused() {
    local code=0
    "$TANIST" execute --deadline 3 "INSERT INTO part VALUES (0)" >/dev/null 2>"$work/refused" || code=$?
    [ "$code" = 3 ]
}
await "a write is refused" is_refused
echo "A write is refused: $(head -n 1 "$work/refused")"
"$TANIST" status
code=0
"$TANIST" promote ctl-2 --force --accept-data-loss >/dev/null 2>"$work/refused" || code=$?
[ "$code" = 1 ] || fail "force without a majority: exit code $code, expected 1"
echo "Nor can it be forced from afar, for the others may only be out of sight: $(head -n 1 "$work/refused")"

say "Somebody has looked: ctl-1 and the witness are switched off. He says so, by name, on the stopped ctl-2."
kill "${pid[ctl-2]}"
wait "${pid[ctl-2]}" || true
"$TANIST" recover --config "$work/ctl-2/tanist.toml" --members ctl-2 || echo "(exit code $?: not without saying so)"
"$TANIST" recover --config "$work/ctl-2/tanist.toml" --members ctl-2 --accept-data-loss
start ctl-2
await "ctl-2 reigns" is_master ctl-2
start_line
more 10
stop_line
echo "ctl-2 has gone on. $(made) parts made, $(value "SELECT count(*) FROM part") counted."

say "A new ctl-1 and a new witness come: empty disks, and the same names."
rm -rf "$work/ctl-1/data" "$work/witness/data"
add() { "$TANIST" members add "$1" --rank "$2" --peer "${address[$1]}:7450" --url "http://${address[$1]}:8080" >/dev/null; }
add ctl-1 1
start ctl-1
await "both controllers hold everything" both
add witness 0
start witness
votes() { "$TANIST" status --json | tr -d ' \n' | grep -oE '"id":"witness"[^}]*"reachable":true'; }
await "the witness votes" votes
start_line
more 10
crash ctl-2
more 10
stop_line
is_master ctl-1 || fail "ctl-1 should reign"
"$TANIST" status
say "$(made) parts made, $(value "SELECT count(*) FROM part") counted, whoever died."
