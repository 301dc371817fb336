#!/usr/bin/env bash
# usage: servers.sh COMMAND...     run a command with the real servers at hand.
# Installs what is missing (redis-server, Node, Python's ZeroMQ, a Java runtime with Maven) with
# a line that says so, starts a genuine Elasticsearch on a free loopback port for the time of the
# command, and sets EVENTSPINE_TEST_ES and EVENTSPINE_REQUIRE_SERVERS, so that no test is skipped.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

apt_updated=
shims=
need() { # need PROGRAM PACKAGE...
	command -v "$1" >/dev/null && return
	shift
	echo "installing from the distribution's packages: $*"
	as_root=()
	[ "$(id -u)" = 0 ] || as_root=(sudo)
	if [ -z "$apt_updated" ]; then
		"${as_root[@]}" apt-get update -qq
		apt_updated=yes
	fi
	DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq "$@" >/dev/null
}
need curl curl
need gcc gcc libc6-dev
need redis-server redis-server
need node nodejs
need npm npm
need mvn maven
need javac default-jdk-headless
need python3 python3
if ! python3 -c 'import zmq' 2>/dev/null; then
	# The real libzmq at the other end of the wire, for the distribution's own Python.
	/usr/bin/python3 -c 'import zmq' 2>/dev/null || need python3-with-zmq python3-zmq
	shims=$(mktemp -d)
	ln -s /usr/bin/python3 "$shims/python3"
	export PATH="$shims:$PATH"
fi
if [ ! -d "$root/test/socketio/node_modules" ]; then
	echo "installing the Socket.IO clients from npm"
	(cd "$root/test/socketio" && npm ci --no-audit --no-fund --loglevel=error)
fi

data=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
echo "starting Elasticsearch on 127.0.0.1:$port (the first time it is fetched from Maven Central: 107 MB)"
ES_HEAP=${ES_HEAP:-512m} "$root/test/elasticsearch/run.sh" "$port" "$data" >"$data.log" 2>&1 &
es=$!
stop() {
	kill "$es" 2>/dev/null || true
	wait "$es" 2>/dev/null || true
	rm -rf "$data" "$data.log" ${shims:+"$shims"}
}
trap stop EXIT
for _ in $(seq 600); do
	curl -fs "http://127.0.0.1:$port/_cluster/health" >/dev/null 2>&1 && break
	kill -0 "$es" 2>/dev/null || { tail -40 "$data.log"; echo "Elasticsearch did not start"; exit 1; }
	sleep 0.5
done
curl -fs "http://127.0.0.1:$port/" >/dev/null || { tail -40 "$data.log"; echo "Elasticsearch did not answer"; exit 1; }

export EVENTSPINE_TEST_ES="http://127.0.0.1:$port" EVENTSPINE_REQUIRE_SERVERS=1
cd "$root"
"$@"
