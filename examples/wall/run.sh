#!/usr/bin/env bash
# A 3x3 wall whose state outlives its master: three machines, nine panels, one `kill -9` of the master and one of a panel.
# Everything runs on this computer, in a temporary directory, and ends with the script.
#
#     examples/wall/run.sh                  # builds tanist first
#     TANIST=/usr/bin/tanist examples/wall/run.sh
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"

say "Three machines. One of them is the master; any could be."
"$TANIST" dev --dir "$work/cluster" >"$work/dev.log" 2>&1 &
running+=($!)
await "the cluster runs" grep -q Dashboard: "$work/dev.log"
hosts=$(grep -oE 'http://127[0-9.]+:[0-9]+$' "$work/dev.log" | sort -u | paste -sd,)
export TANIST_HOSTS=$hosts
"$TANIST" status

say "Nine panels in a square. Each runs an agent, which calls set-panel.sh with what the panel shall show."
panels=()
for row in 1 2 3; do
    for column in 1 2 3; do
        panel=wall-$row-$column
        panels+=("$panel")
        "$TANIST" node set "$panel" --row "$row" --column "$column" >/dev/null
    done
done
start_panel() {
    "$TANIST" agent --node "$1" --every 200 -- "$here/set-panel.sh" "$work/panels" >>"$work/$1.log" 2>&1 &
    running+=($!)
    eval "pid_${1//-/_}=$!"
}
show() { for panel in "${panels[@]}"; do "$TANIST" node desired "$panel" "{\"source\": \"$1\"}" >/dev/null; done; }
# All nine show it, by their own word and by what set-panel.sh has written.
all_show() {
    [ "$("$TANIST" query --json "SELECT count(*) FROM tanist_v_nodes WHERE in_step AND presence = 'present' AND reported ->> 'source' = '$1'" |
        tr -d ' \n' | grep -oE '\[\[[0-9]+\]\]')" = '[[9]]' ] &&
        [ "$(cat "$work"/panels/* | grep -o "\"source\":\"$1\"" | wc -l)" = 9 ]
}
mkdir "$work/panels"
show camera
for panel in "${panels[@]}"; do start_panel "$panel"; done
await "all panels show the camera" all_show camera
"$TANIST" node list

master_pid=$(grep -oE 'master +pid [0-9]+' "$work/dev.log" | grep -oE '[0-9]+$')
say "The master dies (kill -9 $master_pid), and somebody wants the map on the wall at that very moment."
kill -9 "$master_pid"
show map
await "all panels show the map" all_show map
"$TANIST" status

say "A panel dies, and is missed. What is wanted changes meanwhile."
kill -9 "$pid_wall_2_2"
{ wait "$pid_wall_2_2"; } 2>/dev/null || true
rm -f "$work/panels/wall-2-2"
silent() { [ "$("$TANIST" query --json "SELECT presence FROM tanist_v_nodes WHERE name = 'wall-2-2'" | grep -c silent)" = 1 ]; }
await "the dead panel is missed" silent
show alarm
"$TANIST" node list | grep -E 'node|wall-2-2'

say "It returns, and is brought to what is wanted by now, without anyone asking."
start_panel wall-2-2
await "all panels show the alarm" all_show alarm
"$TANIST" node list
say "All nine panels show the alarm."
