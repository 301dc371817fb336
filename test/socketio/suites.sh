#!/usr/bin/env bash
# usage: suites.sh CHECKOUT     run the public protocol suites against the bridge's Socket.IO server.
# CHECKOUT is a working tree of https://github.com/socketio/socket.io; its suites are copied, not
# changed. Needs Node with npm. Engine.IO 4 must pass 24 of 25, Socket.IO 5 all 32 three times
# running, and Engine.IO 3 14 of 23; what go-socket.io alone passes of these is printed beside it.
set -euo pipefail
checkout=$(cd "${1:?usage: suites.sh CHECKOUT}" && pwd)
cd "$(dirname "$0")/../.."
EVENTSPINE_SOCKETIO_CHECKOUT=$checkout go test -count=1 -timeout 10m -run '^TestPublicSuites$' -v ./internal/socketio
