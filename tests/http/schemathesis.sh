#!/usr/bin/env bash
# Asks a live cluster of three machines what its own OpenAPI document allows, and much that it doesn't: without tokens, then
# with them. Fails on a server error and on an answer that the document doesn't have. Needs python3 with venv, and PyPI.
#
#     tests/http/schemathesis.sh                        # builds tanist first
#     TANIST=target/debug/tanist EXAMPLES=100 SECONDS_EACH=300 SEED=7 tests/http/schemathesis.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${TANIST:-}" ]; then
    (cd "$here/../.." && cargo build --quiet --locked)
    TANIST=${CARGO_TARGET_DIR:-$here/../../target}/debug/tanist
fi
TANIST=$(realpath "$TANIST")
examples=${EXAMPLES:-30} most=${SECONDS_EACH:-180} seed=${SEED:-$RANDOM}
work=$(mktemp -d)
running=()
finish() {
    for pid in "${running[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${running[@]}"; do wait "$pid" 2>/dev/null || true; done
    running=()
}
trap 'finish; rm -rf "$work"' EXIT

if [ -z "${VENV:-}" ]; then
    VENV=$work/venv
    python3 -m venv "$VENV"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check 'schemathesis==4.32.5' 'openapi-spec-validator==0.9.0'
fi

await() { # what, command
    for _ in $(seq 300); do "${@:2}" >/dev/null 2>&1 && return; sleep 0.2; done
    echo "waited in vain until $1" >&2
    tail -n 20 "$work"/*.log "$work"/cluster/*/*.log >&2
    exit 1
}
stop() {
    finish
    if grep -rh panicked "$work"/*.log "$work"/cluster/*/*.log; then
        echo "a machine panicked" >&2
        exit 1
    fi
}
ask() { # what, further arguments
    echo "== schemathesis $1: seed $seed, $examples examples each, $most s at most"
    # What the document allows may still be refused, by SQL or by what is so already.
    local exclude=object_level_authorization,positive_data_acceptance,missing_required_header
    [ "$1" = "with tokens" ] || exclude+=,ignored_auth
    # It leaves a directory behind where it runs.
    cd "$work"
    "$VENV/bin/schemathesis" --config-file "$here/schemathesis.toml" run "$url/openapi.json" --url "$url" \
        --checks all --exclude-checks "$exclude" --phases examples,coverage,fuzzing \
        --max-examples "$examples" --max-time "$most" --seed "$seed" --request-timeout 20 --continue-on-failure \
        --generation-database none --no-color --warnings off "${@:2}"
}

"$TANIST" dev --dir "$work/cluster" --log warn >"$work/dev.log" 2>&1 &
running+=($!)
await "the cluster runs" grep -q Dashboard: "$work/dev.log"
TANIST_HOSTS=$(grep -oE 'http://127[0-9.]+:[0-9]+$' "$work/dev.log" | sort -u | paste -sd,)
export TANIST_HOSTS
master() { "$TANIST" status --json "$@" | grep -A1 '"master_urls"' | grep -oE 'http://[0-9.:]+'; }
url=$(master)
curl -sf "$url/openapi.json" >"$work/openapi.json"
"$VENV/bin/python" -c '
import json, sys
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
validate(json.load(open(sys.argv[1])), cls=OpenAPIV31SpecValidator)
print("valid OpenAPI 3.1")' "$work/openapi.json"
# Streams don't end; and after a handover a machine would only say who reigns now.
rest=(--exclude-operation-id events --exclude-operation-id promote --exclude-operation-id demote)
ask "without tokens" --generation-with-security-parameters false "${rest[@]}"
stop

for config in "$work"/cluster/*/tanist.toml; do
    printf '\n[auth]\ntokens = true\n' >>"$config"
    "$TANIST" run --config "$config" >"$config.log" 2>&1 &
    running+=($!)
done
await "a token is made" "$TANIST" token make first --role read --config "$config"
token=$("$TANIST" token make schemathesis --role admin --config "$config" --json | sed -n 's/.*"token": *"\([^"]*\)".*/\1/p')
url=$(master --config "$config")
header="Authorization: Bearer $token"
ask "with tokens" --header "$header" "${rest[@]}"
most=30 ask "with tokens" --header "$header" --include-operation-id promote --include-operation-id demote
stop
echo "== no server error, no answer outside the document"
