#!/usr/bin/env bash
# A configuration service for many small services: six ask with tags, three watch, two people change values, and the master dies.
# Everything runs on this computer, in a temporary directory, and ends with the script. README.md tells the story.
#
#     examples/configuration/run.sh                  # builds tanist first
#     TANIST=/usr/bin/tanist examples/configuration/run.sh
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"

say "Three machines, and a token for everybody: who changes something is known by name."
lay_out conf-1 conf-2 conf-3
for machine in conf-1 conf-2 conf-3; do
    printf '[auth]\ntokens = true\n' >>"$work/$machine/tanist.toml"
    start "$machine"
done
operator=(--config "$work/conf-1/tanist.toml")
make() { "$TANIST" token make "$1" --role "$2" --json "${operator[@]}" | grep -oE '"token": *"[^"]*"' | sed -E 's/.*"([^"]*)"$/\1/'; }
await "a machine reigns" "$TANIST" config set --deadline 1 "${operator[@]}" web/workers 0
anna=$(make anna write) ben=$(make ben write) services=$(make services read)
TANIST_TOKEN=$services
export TANIST_TOKEN
hosts=${TANIST_HOSTS//,/ }

say "Six services ask for web/workers all the time, each at another machine first. Three watch."
read -ra urls <<<"$hosts"
in_order() { echo "${urls[$1 % 3]},${urls[($1 + 1) % 3]},${urls[($1 + 2) % 3]}"; }
for n in 0 1 2 3 4 5; do
    bash "$here/reader.sh" "$(in_order "$n")" "$work/reader-$n" web%2Fworkers &
    running+=($!)
done
for n in 0 1 2; do
    bash "$here/watcher.sh" "$(in_order "$n")" "$work/watcher-$n" web/ 2>>"$work/watcher-$n.errors" &
    running+=($!)
done
watching() { for n in 0 1 2; do [ -s "$work/watcher-$n.place" ] || return 1; done; }
await "all three watch" watching

# Each change is made once, whoever dies meanwhile: the command line repeats it with its key.
changes=0
change() { # by whose token, how many
    for _ in $(seq "$2"); do
        changes=$((changes + 1))
        TANIST_TOKEN=$1 "$TANIST" config set web/workers "$changes" >/dev/null
    done
}
change "$anna" 10
master=$(master)
say "Anna has changed it ten times. $master, the master, dies (kill -9), and Ben goes on changing it."
crash "$master"
change "$ben" 10
told() { for n in 0 1 2; do [ "$(grep -c workers "$work/watcher-$n" || true)" -ge "$changes" ] || return 1; done; }
await "all watchers were told" told
say "$master is back. Another master dies."
start "$master"
back() { [ "$("$TANIST" status --json | tr -d ' \n' | grep -oE '"sync_set":\[[^]]*\]' | grep -o conf | wc -l)" = 2 ] && is_behind; }
is_behind() { ! "$TANIST" status | grep "$master" | grep -q "not reached"; }
await "$master follows" back
second=$(master)
crash "$second"
change "$anna" 5
await "all watchers were told" told

say "What the services have seen"
revision=$("$TANIST" config get --json web/workers | grep -oE '"revision": *[0-9]+' | grep -oE '[0-9]+')
newest() { for n in 0 1 2 3 4 5; do [ "$(tail -n 1 "$work/reader-$n.seen")" = "$revision" ] || return 1; done; }
await "all services have the newest value" newest
unchanged=0
for n in 0 1 2 3 4 5; do
    touch "$work/reader-$n.stop"
    sort -nu -c "$work/reader-$n.seen" || fail "service $n went back in time"
    read -r same new moved <"$work/reader-$n.counts"
    unchanged=$((unchanged + same))
    echo "service $n: $new values, $same times \"304 not modified\", $moved times another machine; never back in time"
done
[ "$unchanged" -ge 12 ] || fail "only $unchanged answers were 304"
for n in 0 1 2; do
    seq "$changes" >"$work/expected"
    sed -nE 's/.*"value":([0-9]+).*/\1/p' "$work/watcher-$n" | cmp - "$work/expected" || fail "watcher $n missed something, or was told twice"
    echo "watcher $n: $changes changes, each once and in order"
done

say "Who changed what, and when"
"$TANIST" config history web/workers --limit 8
"$TANIST" config history --json web/workers >"$work/history"
by() { grep -cE "\"changed_by\": *\"$1\"" "$work/history"; }
say "$changes changes: $(by anna) by anna, $(by ben) by ben, and the watchers were told of all of them."
