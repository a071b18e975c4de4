# What the examples share; read by them (`. common.sh`), not run. Afterwards $TANIST is the program, and $work a directory that
# ends with the script, as all processes in $running do; KEEP_WORK=/some/where keeps a copy of it, with the logs.
set -euo pipefail
if [ -z "${TANIST:-}" ]; then
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    (cd "$root" && cargo build --release --quiet)
    TANIST=$root/target/release/tanist
fi
work=$(mktemp -d)
running=()
declare -A pid address
finish() {
    # First kindly: who has processes of his own ends them.
    kill "${running[@]}" 2>/dev/null || true
    for _ in $(seq 50); do
        kill -0 "${running[@]}" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "${running[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    [ -z "${KEEP_WORK:-}" ] || cp -r "$work" "$KEEP_WORK"
    rm -rf "$work"
}
trap finish EXIT

say() { printf '\n== %s\n' "$*"; }

fail() { echo "$*" >&2; exit 1; }

# Waits until a command succeeds, at most 60 s.
await() {
    for _ in $(seq 600); do "${@:2}" >/dev/null 2>&1 && return; sleep 0.1; done
    fail "waited in vain until $1"
}

# Writes the configuration of machines, `name` or `name,witness`, on loopback addresses that only this run uses.
lay_out() {
    local net=127.$((251 + RANDOM % 4)).$((RANDOM % 256)) plan=() names=() machine name
    for machine in "$@"; do
        name=${machine%%,*}
        names+=("$name")
        address[$name]=$net.${#names[@]}
        plan+=(--member "$name=${address[$name]}${machine#"$name"}")
    done
    for name in "${names[@]}"; do
        "$TANIST" init --dir "$work/$name" --id "$name" --cluster example "${plan[@]}" \
            ${key_file:+--key-file "$key_file"} >/dev/null
        key_file=$work/${names[0]}/cluster.key
    done
    TANIST_HOSTS=$(for name in "${names[@]}"; do echo "http://${address[$name]}:8080"; done | paste -sd,)
    export TANIST_HOSTS
}

start() {
    "$TANIST" run --config "$work/$1/tanist.toml" >>"$work/$1/log" 2>&1 &
    pid[$1]=$!
    running+=($!)
}

# The process is gone when this returns, without a chance to do anything more.
crash() {
    kill -KILL "${pid[$1]}"
    { wait "${pid[$1]}"; } 2>/dev/null || true
}

# One field of the cluster as it is seen now, such as `master`.
cluster() { "$TANIST" status --json | grep -oE "^  \"$1\": .*" | sed -E 's/^[^:]*: "?//; s/"?,?$//'; }
is_master() { [ "$(cluster master)" = "$1" ] && [ "$(cluster writable)" = true ]; }
master() {
    for _ in $(seq 300); do
        [ "$(cluster writable)" = true ] && cluster master && return
        sleep 0.1
    done
    fail "there is no master"
}

# The first value that a query finds.
value() { "$TANIST" query --json "$@" | tr -d ' \n' | sed -E 's/.*"rows":\[\[([^],]*).*/\1/; s/"//g'; }
