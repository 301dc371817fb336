#!/usr/bin/env bash
# docker-compose.yml for real: built, brought up, given the real input through its published ports, each
# process killed, taken down and brought up again. `make compose-test` calls it.
#
#   KEEP=1     leave it running afterwards
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
deploy/docker/local-images.sh
export COMPOSE_PROJECT_NAME=eventspine-test # its volumes are not those of a user's own `docker compose up`
finish() {
	status=$?
	[ $status = 0 ] || docker compose logs --no-color --tail 20 >&2 || true
	[ -n "${KEEP:-}" ] || docker compose down --volumes --timeout 20 >/dev/null 2>&1 || true
	exit $status
}
docker compose down --volumes --timeout 20 >/dev/null 2>&1
trap finish EXIT
began=$SECONDS
docker compose build
echo "test/compose: built in $((SECONDS - began)) s"
began=$SECONDS
docker compose up --build --wait
echo "test/compose: up and healthy after $((SECONDS - began)) s"
docker images --format '{{.Repository}}:{{.Tag}}  {{.Size}}' eventspine
EVENTSPINE_COMPOSE=$COMPOSE_PROJECT_NAME go test -count=1 -v -timeout 20m -run '^TestCompose$' ./test/e2e
