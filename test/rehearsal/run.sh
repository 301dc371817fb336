#!/usr/bin/env bash
# make rehearsal: up, check, down. KEEP=1 leaves the machines for a look: test/rehearsal/down.sh removes them.
# Needs root, Docker and nsenter; makes a network 10.0.1.0/24 that leads nowhere, and touches no other.
set -euo pipefail
cd "$(dirname "$0")"
[ "$(id -u)" = 0 ] || { echo "make rehearsal needs root, for network namespaces and firewalls"; exit 1; }
./down.sh
[ -n "${KEEP:-}" ] || trap ./down.sh EXIT
./up.sh
./check.sh
