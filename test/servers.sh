#!/usr/bin/env bash
# usage: servers.sh COMMAND...     run a command with the real servers at hand.
# Installs what is missing (redis-server, Node, Chromium, Python's ZeroMQ, a Java runtime with Maven, ip and nft)
# with a line that says so, starts a genuine Elasticsearch for the time of the command, and sets
# EVENTSPINE_TEST_ES and EVENTSPINE_REQUIRE_SERVERS, so that no test is skipped.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

apt_updated=
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
export PATH="$PATH:/usr/sbin:/sbin" # where Debian keeps these two
need ip iproute2
need nft nftables
need node nodejs
need npm npm
if [ "$(node -p 'process.versions.node.split(".")[0]')" -lt 20 ]; then # Debian 12 has 18
	echo "installing Node 20 from npm"
	npm install --prefix "$root/.cache/node" --no-audit --no-fund --loglevel=error node@20
	export PATH="$root/.cache/node/node_modules/.bin:$PATH"
fi
need chromium chromium
need mvn maven
need javac default-jdk-headless
need python3 python3
if ! python3 -c 'import zmq' 2>/dev/null; then
	# The real libzmq at the other end of the wire, for the distribution's own Python.
	/usr/bin/python3 -c 'import zmq' 2>/dev/null || need python3-with-zmq python3-zmq
	shims=$(mktemp -d)
	ln -s /usr/bin/python3 "$shims/python3"
	export PATH="$shims:$PATH"
	trap 'rm -rf "$shims"' EXIT
fi
packages() { # packages DIRECTORY WHAT
	[ "$root/$1/node_modules/.package-lock.json" -nt "$root/$1/package-lock.json" ] && return
	echo "installing $2 from npm"
	(cd "$root/$1" && npm ci --no-audit --no-fund --loglevel=error)
}
packages test/socketio "the Socket.IO clients"
packages clients/js "what clients/js is built and tested with"

export EVENTSPINE_REQUIRE_SERVERS=1
cd "$root"
test/elasticsearch/with.sh "$@"
