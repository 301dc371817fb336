#!/usr/bin/env bash
# make deploy-check: the compose file, the units and the templates, without a cloud and without
# a daemon. Installs what it needs and says so.
set -euo pipefail
cd "$(dirname "$0")/../.."
failures=0
fail() { echo "FAIL $*"; failures=$((failures + 1)); }

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
if ! command -v systemd-analyze >/dev/null; then
	echo "installing from the distribution's packages: systemd"
	"${as_root[@]}" apt-get update -qq
	DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends systemd >/dev/null
fi
. test/deploy/venv.sh

# Units: not a word from the verifier, in a root of their own where the programs are; and how exposed
# each is, 20 meaning 2.0.
top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
units=$top/usr/lib/systemd/system
mkdir -p "$units" "$top/usr/lib/eventspine" "$top/usr/bin" "$top/etc"
for u in /usr/lib/systemd/system /lib/systemd/system; do
	[ -d "$u" ] && cp -a "$u"/*.target "$u"/*.slice "$u"/*.mount "$u"/systemd-* "$u"/dbus* "$units/" 2>/dev/null && break
done || true
for p in lib/eventspine/api lib/eventspine/worker lib/eventspine/proxy lib/eventspine/indexer lib/eventspine/bridge bin/redis-server; do
	install -m 0755 /dev/null "$top/usr/$p"
done
cp deploy/systemd/*.service "$units/"
verify() { # verify UNIT: nothing, or what is wrong with it
	systemd-analyze verify --man=no --root="$top" "$1" 2>&1 || echo "exit code $?"
}
n=0
for path in deploy/systemd/*.service; do
	unit=$(basename "$path")
	said=$(verify "${unit/@./@1.}")
	[ -z "$said" ] || fail "$unit: $said"
	systemd-analyze security --offline=true --threshold=20 --no-pager "$units/$unit" >"$top/security" 2>&1 || fail "$unit: $(tail -1 "$top/security")"
	n=$((n + 1))
done
# What the verifier has to find, or it would find nothing: a word that is none.
sed 's/^RestartSec=/RestartSecs=/' deploy/systemd/eventspine-api.service >"$units/eventspine-api.service"
[ -n "$(verify eventspine-api.service)" ] || fail "the verifier does not see a misspelt setting"
sed '/^CapabilityBoundingSet=\|^ProtectSystem=\|^SystemCallFilter=\|^PrivateUsers=/d' deploy/systemd/eventspine-api.service >"$units/eventspine-api.service"
! systemd-analyze security --offline=true --threshold=20 --no-pager "$units/eventspine-api.service" >/dev/null 2>&1 || fail "the threshold lets an exposed unit pass"
.cache/venv/bin/python test/deploy/units.py deploy/systemd deploy/instance || fail "units.py"
echo "units: $n verified, each at most 2.0 exposed"

# Scripts of the machines.
for s in deploy/instance/setup deploy/instance/bake deploy/cloudformation/secrets.sh; do
	bash -n "$s" || fail "$s"
	[ -x "$s" ] || fail "$s cannot be executed"
done

.cache/venv/bin/python test/deploy/check.py || fail "templates"

if [ -f docker-compose.yml ] && docker compose version >/dev/null 2>&1; then
	docker compose -f docker-compose.yml config -q || fail "docker-compose.yml"
	echo "compose: docker-compose.yml is valid"
else
	echo "compose: docker compose is not on this machine; make compose-test installs it and checks docker-compose.yml"
fi
[ $failures = 0 ] || { echo "deploy-check: $failures failures"; exit 1; }
echo "deploy-check: all well"
