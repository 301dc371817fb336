#!/usr/bin/env bash
# Removes what up.sh made, and nothing else.
. "$(dirname "$0")/lib.sh"
for f in "$state"/*.pid; do [ -f "$f" ] && kill "$(cat "$f")" 2>/dev/null; done
for m in $machines; do docker rm -f "$(name $m)" >/dev/null 2>&1; docker volume rm "$(name $m)-data" >/dev/null 2>&1; done
for m in aws alb stranger $machines; do docker rm -f "$(name $m)-eni" >/dev/null 2>&1; done
docker network rm $network >/dev/null 2>&1
rm -rf "$state"
true
