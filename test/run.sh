#!/usr/bin/env bash
# Every test on real servers, with the race detector. `make test` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
test/deploy/check.sh
# The longest first, which mostly waits: otherwise it runs alone at the end.
exec test/servers.sh go test -race -timeout 15m ./test/e2e ./...
