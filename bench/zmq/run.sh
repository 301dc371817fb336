#!/usr/bin/env bash
# usage: run.sh [FLAGS]     our ZeroMQ sockets beside libzmq on this machine; the flags are bench/zmq's.
# Installs a C compiler, libzmq's headers and strace where they are missing, with a line that says so.
set -euo pipefail
cd "$(dirname "$0")"

apt_updated=
install() {
	echo "installing from the distribution's packages: $*"
	as_root=()
	[ "$(id -u)" = 0 ] || as_root=(sudo)
	if [ -z "$apt_updated" ]; then
		"${as_root[@]}" apt-get update -qq
		apt_updated=yes
	fi
	DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq "$@" >/dev/null
}
command -v gcc >/dev/null || install gcc libc6-dev
echo '#include <zmq.h>' | gcc -E - >/dev/null 2>&1 || install libzmq3-dev
command -v perf >/dev/null || command -v strace >/dev/null || install strace

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
gcc -O2 -Wall -o "$bin/libzmq-peer" libzmq/peer.c -lzmq
go build -o "$bin/bench-zmq" .
"$bin/bench-zmq" -libzmq "$bin/libzmq-peer" "$@"
