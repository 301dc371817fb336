#!/usr/bin/env bash
# usage: run.sh [FLAGS]     our Socket.IO server beside the official one; the flags are bench/socketio's.
# Without flags: 2,000 clients, then 10,000. Needs Node with npm, and 10,000 clients a limit of about
# 10,100 open files a process (ulimit -n).
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v node >/dev/null || { echo "node is not installed: apt-get install nodejs npm" >&2; exit 1; }
[ -d bench/socketio/node/node_modules ] || npm ci --prefix bench/socketio/node --no-audit --no-fund >/dev/null
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/bench-socketio" ./bench/socketio
if [ $# -gt 0 ]; then
	"$bin/bench-socketio" "$@"
	exit
fi
"$bin/bench-socketio" -clients 2000
"$bin/bench-socketio" -clients 10000 -steps broadcast,targeted
