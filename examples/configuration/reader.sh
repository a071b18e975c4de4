#!/usr/bin/env bash
# A small service that needs one value and asks for it often: plain curl, the machines in the order of its own nearness, and two
# things to remember, the tag of what it has and the position of the last answer.
#
#     reader.sh HOSTS FILE KEY      with TANIST_TOKEN in the environment; ends when FILE.stop is there
set -euo pipefail
IFS=, read -ra hosts <<<"$1"
file=$2 url="/v1/config/$3?consistency=bounded&max_staleness=2s"
tag= position= host=0 same=0 new=0 moved=0
: >"$file.seen"
while [ ! -e "$file.stop" ]; do
    status=$(curl -s -o "$file.body" -D "$file.head" -w '%{http_code}' --max-time 2 -H "Authorization: Bearer $TANIST_TOKEN" \
        ${tag:+-H "If-None-Match: $tag"} ${position:+-H "Tanist-Min-Position: $position"} "${hosts[host]}$url") || true
    header() { sed -nE "s/^$1: *([^\r]*)\r?$/\1/Ip" "$file.head"; }
    case $status in
    304) same=$((same + 1)) position=$(header tanist-position) ;;
    200)
        new=$((new + 1)) tag=$(header etag) position=$(header tanist-position)
        # The revision, as the tag says it: it must never go back.
        echo "${tag//\"/}" >>"$file.seen"
        ;;
    *)
        # Down, or behind what this service has seen already: the next machine.
        host=$(((host + 1) % ${#hosts[@]})) moved=$((moved + 1))
        ;;
    esac
    echo "$same $new $moved" >"$file.counts.new" && mv "$file.counts.new" "$file.counts"
    sleep 0.02
done
