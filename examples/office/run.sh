#!/usr/bin/env bash
# An office of three desktops without a server: they find each other, one goes home, one crashes, and every order has its invoice.
# Runs in a network of its own that nobody else sees (Linux, `unshare`), in a temporary directory, and ends with the script.
# README.md tells the story.
#
#     examples/office/run.sh                  # builds the program first
#     OFFICE=/usr/bin/office TANIST=/usr/bin/tanist examples/office/run.sh
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${OFFICE:-}" ]; then
    root=$(cd "$here/../.." && pwd)
    (cd "$root" && cargo build --release --quiet -p tanist -p tanist-office)
    export OFFICE=$root/target/release/office TANIST=$root/target/release/tanist
fi
if [ -z "${OWN_NETWORK:-}" ]; then
    OWN_NETWORK=1 exec unshare -rn bash "$0"
fi
# What only listens is left out where there is no `tanist`.
has_tanist=${TANIST:+yes}
export TANIST=${TANIST:-none}
. "$here/../common.sh"

# The office's cable.
ip link set lo up
ip link add desk0 type veth peer name desk1
ip link set desk0 up
ip link set desk1 up
address=([anna]=10.9.8.1 [ben]=10.9.8.2 [cleo]=10.9.8.3)
for desktop in anna ben cleo; do ip address add "${address[$desktop]}/24" dev desk0; done
head -c 32 /dev/urandom | base64 >"$work/office.key"
chmod 600 "$work/office.key"

# Opens the application on a desktop; what its user types comes through a pipe.
open() {
    local name=$1
    shift
    [ -p "$work/$name.in" ] || mkfifo "$work/$name.in"
    "$OFFICE" --name "$name" --address "${address[$name]}" --dir "$work/$name" --key-file "$work/office.key" "$@" \
        <>"$work/$name.in" >>"$work/$name.out" 2>>"$work/$name.errors" &
    pid[$name]=$!
    running+=($!)
}
types() { echo "$2" >"$work/$1.in"; }
said() { grep -qE "^$1: $2" "$work/$1.out"; }
taken() { cat "$work"/*.out | grep -c ' taken: ' || true; }
ask() {
    curl -sf -H 'content-type: application/json' -d "{\"statements\":[{\"sql\":\"$1\"}]}" -L "http://${address[$desk]}:8080/v1/query" |
        sed -E 's/.*"rows":\[\[([^]]*)\]\].*/\1/'
}

say "Anna's is the first desktop of the office: she says so, once."
open anna --found
types anna "a chair"
await "Anna's order is taken" said anna "order 1 taken"

say "Ben opens the application: he hears Anna and joins. Cleo's network carries no multicast: she knows a name."
open ben
await "Ben has joined" said ben "here I am"
open cleo --hosts "${address[anna]}:8080"
await "Cleo has joined" said cleo "here I am"
await "Anna hears Ben" said anna "hears that ben is here"
await "Anna hears Cleo" said anna "hears that cleo is here"
await "Cleo hears Ben" said cleo "hears that ben is here"
await "Ben knows the master" said ben "the master is anna"
grep -h welcome "$work"/*.out
both_hold() {
    curl -s "http://${address[anna]}:8080/v1/cluster" | grep -oE '"progress":"stream"' | wc -l | grep -q 2
}
await "two others hold everything" both_hold
if [ -n "$has_tanist" ]; then "$TANIST" discover; fi

# Orders from these desktops until somebody says stop.
order() {
    local n=0
    while [ ! -e "$work/stop" ]; do
        n=$((n + 1))
        for name in "$@"; do types "$name" "lamp $n"; done
        sleep 0.02
    done
}
orders() {
    rm -f "$work/stop"
    order "$@" &
    ordering=$!
    running+=($!)
}
more() {
    local wanted=$(($(taken) + $1))
    enough() { [ "$(taken)" -ge "$wanted" ]; }
    await "$1 more orders are taken" enough
}
say "Orders come in. Anna, whose desktop numbers the invoices, goes home."
orders ben cleo
more 20
types anna close
wait "${pid[anna]}"
more 20
tail -n 1 "$work/anna.out"
heir=$(sed -nE 's/^anna: goodbye; (.*) carries on$/\1/p' "$work/anna.out")
case $heir in ben | cleo) ;; *) fail "Anna named no successor" ;; esac
await "$heir numbers the invoices" said "$heir" "I number the invoices now"
other=$([ "$heir" = ben ] && echo cleo || echo ben)
await "the others hear that Anna has left" said "$other" "hears that anna has left"

say "Anna is back in the morning. Then $heir's computer crashes (kill -9), in the middle of the orders."
open anna
back() { [ "$(grep -c 'here I am' "$work/anna.out")" = 2 ]; }
await "Anna is back" back
follows() { curl -s "http://${address[$heir]}:8080/v1/cluster" | grep -oE '"progress":"stream"' | wc -l | grep -q 2; }
await "Anna's desktop holds everything" follows
touch "$work/stop"
wait "$ordering"
orders "$other" anna
more 10
crash "$heir"
more 30
touch "$work/stop"
wait "$ordering"
# Orders that were typed may still wait for being taken.
for name in "$other" anna; do
    types "$name" "last order"
    await "$name has taken all orders" said "$name" "order [0-9]+ taken: last order"
done
numbers_now() { tail -n +1 "$work/$1.out" | grep -E "numbers the invoices|I number" | tail -n 1 | grep -q "I number"; }
somebody() { numbers_now anna || numbers_now "$other"; }
await "somebody else numbers the invoices" somebody

say "Closing time"
desk=$other
all_have_invoices() { [ "$(ask "SELECT count(*) - (SELECT count(*) FROM invoices) FROM orders")" = 0 ]; }
await "every order has an invoice" all_have_invoices
# What the crashed desktop had taken and not told of is there, too; none that was told of may be missing.
cat "$work"/*.out | sed -nE 's/.*order ([0-9]+) taken.*/\1/p' | sort -n >"$work/told"
[ -z "$(uniq -d "$work/told")" ] || fail "orders were told twice: $(uniq -d "$work/told" | paste -sd,)"
here=$(ask "SELECT count(*) FROM orders WHERE id IN ($(paste -sd, "$work/told"))")
[ "$here" = "$(taken)" ] || fail "$(taken) orders were taken, and $here of them are here"
IFS=, read -r count lowest highest desks <<<"$(ask "SELECT count(*), min(number), max(number), count(DISTINCT numbered_by) FROM invoices")"
[ "$count" -ge "$(taken)" ] || fail "$(taken) orders were taken, and $count invoices were made"
[ "$lowest" = 1 ] && [ "$highest" = "$count" ] || fail "$count invoices from $lowest to $highest"
say "$(taken) orders were told as taken; $count invoices, numbered without a gap by $desks desktops, one after the other."
