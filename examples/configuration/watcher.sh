#!/usr/bin/env bash
# A service that is told instead of asking: the stream of events, by plain curl. When the machine dies it goes on at the next
# one with the event that follows the last one.
#
#     watcher.sh HOSTS FILE PREFIX      with TANIST_TOKEN in the environment; one line per event in FILE: id, key, data
set -euo pipefail
IFS=, read -ra hosts <<<"$1"
file=$2 url="/v1/events?kinds=config&subject_prefix=$3"
last= host=0
while true; do
    while IFS= read -r line; do
        line=${line%$'\r'}
        case $line in
        id:*) id=${line#id: } ;;
        data:*) echo "$id ${line#data: }" >>"$file" ;;
        # A blank line ends the event (or says only how far the stream is): what follows comes after it.
        '') last=${id:-$last} && echo "$last" >"$file.place" ;;
        esac
    done < <(curl -sN --max-time 60 -H "Authorization: Bearer $TANIST_TOKEN" ${last:+-H "Last-Event-ID: $last"} "${hosts[host]}$url")
    host=$(((host + 1) % ${#hosts[@]}))
    sleep 0.05
done
