#!/usr/bin/env bash
# Runs a command beside a fresh Elasticsearch and stops the server afterwards.
#
#   with.sh go test ./...
#
# The command finds the server's URL in EVENTSPINE_TEST_ES. The exit code is the command's. A
# server that is already named in EVENTSPINE_TEST_ES is used instead of starting one.
# ES_NICE is the server's niceness, 0 by default; make bench sets it, as there the index shares its processors with the live path.
# Everything run.sh reads from the environment applies; ES_HEAP is 512m here.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -gt 0 ] || { echo "usage: with.sh COMMAND [ARGUMENT…]" >&2 && exit 2; }
[ -z "${EVENTSPINE_TEST_ES:-}" ] || exec "$@"
export ES_HEAP=${ES_HEAP:-512m}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_port() {
	local port
	while port=$((20000 + RANDOM % 10000)); do
		listens "$port" || { echo "$port" && return; }
	done
}

server='' data=''
stop() {
	if [ -n "$server" ]; then
		kill "$server" 2>/dev/null || true
		wait "$server" 2>/dev/null || true
	fi
	[ -z "$data" ] || rm -rf "$data"
}
trap stop EXIT
trap 'exit 130' INT TERM

"$here/run.sh" --fetch
port=$(free_port)
data=$(mktemp -d /var/tmp/eventspine-es.XXXXXX)
echo "test/elasticsearch: starting Elasticsearch on 127.0.0.1:$port (about 15 s)" >&2
nice -n "${ES_NICE:-0}" "$here/run.sh" "$port" "$data" >"$data/server.log" 2>&1 &
server=$!
for ((i = 0; i < 240; i++)); do
	listens "$port" && break
	kill -0 "$server" 2>/dev/null || { tail -n 30 "$data/server.log" >&2 && exit 1; }
	sleep 0.5
done
listens "$port" || { echo "test/elasticsearch: no answer after two minutes" >&2 && tail -n 30 "$data/server.log" >&2 && exit 1; }
export EVENTSPINE_TEST_ES=http://127.0.0.1:$port
"$@"
