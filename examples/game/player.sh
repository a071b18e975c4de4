#!/usr/bin/env bash
# A player, or a device in the field: takes one turn after the other, each of them exactly once, and itself dies now and then in
# the middle of one. What it must not forget is the turn it is in: that is the key of the write.
#
#     player.sh NAME TURNS FILE      with the machines in TANIST_HOSTS; $TANIST is the program
set -euo pipefail
name=$1 turns=$2 file=$3
died=0
for turn in $(seq "$turns"); do
    turn_is_over() {
        "$@" "$TANIST" execute --key "$name-$turn" -p "$name" "UPDATE player SET gold = gold + 1, turns = turns + 1 WHERE name = ?" >/dev/null
    }
    # Every fourth time the player's own program is killed a moment after it began, wherever it is then.
    if [ $((turn % 4)) = 0 ] && ! turn_is_over timeout -s KILL "0.0$((RANDOM % 30 + 10))" 2>/dev/null; then
        died=$((died + 1))
    fi
    # Was it done? The same turn again, with the same key, is the answer: it gives the first answer, or does it now.
    turn_is_over command
    echo "$turn $died" >"$file"
done
