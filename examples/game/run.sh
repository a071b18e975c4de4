#!/usr/bin/env bash
# An always-on back end: six players take turns, three machines serve, and everybody dies now and then. Everything runs on this
# computer, in a temporary directory, and ends with the script. README.md tells the story.
#
#     examples/game/run.sh                  # builds tanist first
#     TANIST=/usr/bin/tanist examples/game/run.sh
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
export TANIST
turns=24
players=(ada ben cleo dan eve finn)

say "Three machines serve the game. The players' list is an old one: two names that are gone, and one machine that lives."
lay_out game-1 game-2 game-3
for machine in game-1 game-2 game-3; do start "$machine"; done
await "the game runs" "$TANIST" execute "CREATE TABLE player(name TEXT PRIMARY KEY, gold INTEGER NOT NULL, turns INTEGER NOT NULL)"
for player in "${players[@]}"; do
    "$TANIST" execute -p "$player" "INSERT INTO player VALUES (?, 0, 0)" >/dev/null
done
all=$TANIST_HOSTS
# A machine that is asked knows the others: the list that it gives, and whom it suggests.
TANIST_HOSTS=retired.invalid:8080,${address[game-1]%.*}.99:8080,${address[game-3]}:8080
export TANIST_HOSTS
await "a machine suggests whom to ask" cluster suggested_host
echo "List of the players: $TANIST_HOSTS"
echo "The first machine that answers suggests $(cluster suggested_host), and knows $(grep -o http <<<"$all" | wc -l) machines."

say "The game is on. Every player takes $turns turns for a piece of gold each, and is killed himself now and then."
for player in "${players[@]}"; do
    bash "$here/player.sh" "$player" "$turns" "$work/$player" 2>>"$work/$player.errors" &
    pid[$player]=$!
    running+=($!)
done
taken() { { cat "${players[@]/#/$work/}" 2>/dev/null || true; } | awk '{ n += $1 } END { print n + 0 }'; }
follows() { ! TANIST_HOSTS=$all "$TANIST" status | grep "$1" | grep -q "not reached" && [ -n "$(holders | grep "$1")" ]; }
holders() { TANIST_HOSTS=$all "$TANIST" status | awk '$2 > 0 && / stream +http| master +[0-9]/ { print $1 }'; }
# game-3 is the only living one in the players' list: it dies last, and only for a moment.
for kill in 1 2 3; do
    enough() { [ "$(taken)" -ge $((kill * turns)) ]; }
    await "$((kill * turns)) turns are taken" enough
    TANIST_HOSTS=$all
    master=$(master)
    echo "after $(taken) turns $master, the master, dies"
    crash "$master"
    start "$master"
    await "$master follows" follows "$master"
done
for player in "${players[@]}"; do
    wait "${pid[$player]}" || fail "$player met an error: $(cat "$work/$player.errors")"
done

say "The game is over"
TANIST_HOSTS=$all
"$TANIST" query "SELECT * FROM player ORDER BY name"
died=$(cat "${players[@]/#/$work/}" | awk '{ n += $2 } END { print n + 0 }')
gold=$(value "SELECT sum(gold) FROM player")
[ "$(value "SELECT count(*) FROM player WHERE gold = $turns AND turns = $turns")" = "${#players[@]}" ] || fail "gold was lost or doubled"
say "$((turns * ${#players[@]})) turns, $gold pieces of gold; 3 masters and $died players died in the middle of a turn."
