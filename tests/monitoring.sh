#!/usr/bin/env bash
# Prometheus's own tool on what is shipped for it and on what a living cluster tells. $TANIST names the program, $PROMTOOL its
# tool (Debian: package prometheus). Ends with 3 where the tool is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
promtool=${PROMTOOL:-promtool}
if ! command -v "$promtool" >/dev/null; then
    echo "promtool is missing (package prometheus): left out" >&2
    exit 3
fi
(cd docs/monitoring && "$promtool" check config prometheus.yml && "$promtool" test rules alerts_test.yml)
dir=$(mktemp -d)
"${TANIST:-target/debug/tanist}" dev --log warn --dir "$dir/cluster" >"$dir/out" 2>&1 &
cluster=$!
trap 'kill -INT $cluster; wait $cluster || true; rm -rf "$dir"' EXIT
until grep -q '^Ctrl-C' "$dir/out"; do
    kill -0 $cluster
    sleep 0.1
done
hosts=$(grep -E '^ +pc-' "$dir/out" | grep -oE 'https?://[^ ]+')
curl -fsSL -H 'Content-Type: application/json' -d '{"statements":[{"sql":"CREATE TABLE t(a)"}]}' "$(head -1 <<<"$hosts")/v1/execute" >/dev/null
for host in $hosts; do
    curl -fsS "$host/metrics" | "$promtool" check metrics
done
echo "metrics of $(wc -l <<<"$hosts") machines are as Prometheus wants them"
