#!/usr/bin/env bash
# usage: try.sh [DEB]     install, use, upgrade, remove and purge the package in a fresh Debian 12 container
# without a network, and complain about what is not as it should be. The newest of dist/ unless one is named.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
deb=${1:-$(ls -t dist/*_amd64.deb | head -n 1)}
docker run --rm -i --network none -v "$(realpath "$deb")":/eventspine.deb:ro debian:bookworm-slim bash -euo pipefail <<'END'
version=$(dpkg-deb -f /eventspine.deb Version)
fail() { echo "FAIL $*"; exit 1; }
services="api worker proxy indexer bridge"

# What is in it, all of it, as the image leaves manuals out.
mkdir /all && dpkg-deb -x /eventspine.deb /all
cd /all
for f in usr/bin/eventspine usr/share/man/man1/eventspine{,-rules-set,-token}.1.gz usr/share/bash-completion/completions/eventspine \
	usr/share/zsh/vendor-completions/_eventspine usr/share/fish/vendor_completions.d/eventspine.fish usr/lib/sysusers.d/eventspine.conf \
	usr/lib/eventspine/instance/setup usr/lib/systemd/system/eventspine-{api,proxy,indexer,bridge,redis,worker@}.service etc/eventspine/eventspine.env \
	usr/share/doc/eventspine/{README.md,CHANGELOG.md,settings.md} usr/share/doc/eventspine/examples/{api,worker,proxy,indexer,bridge}.env; do
	[ -s "$f" ] || fail "$f is missing"
done
[ -z "$(find . -perm /022 -not -type l)" ] || fail "others may write $(find . -perm /022 -not -type l)"
[ -z "$(find . -not -user root)" ] || fail "not of root: $(find . -not -user root)"
gzip -t usr/share/man/man1/*.gz
bash -n usr/share/bash-completion/completions/eventspine
cd /

dpkg -i /eventspine.deb >/dev/null
eventspine version | grep -qF "eventspine $version (" || fail "the command says $(eventspine version)"
for s in $services; do
	/usr/lib/eventspine/$s version | grep -qF "eventspine $s $version (" || fail "$s says $(/usr/lib/eventspine/$s version)"
	! /usr/lib/eventspine/$s healthcheck >/dev/null 2>&1 || fail "$s is healthy without running"
done
[ -z "$(JWT_SECRET=0123456789abcdef eventspine token --user ana | tr -d 'A-Za-z0-9_.\n-')" ] || fail "no token"

echo LOG_LEVEL=DEBUG >>/etc/eventspine/eventspine.env
mkdir -p /etc/eventspine/secrets /var/lib/eventspine/api
echo one >/etc/eventspine/secrets/jwt_secret
dpkg -i /eventspine.deb </dev/null >/dev/null
grep -q ^LOG_LEVEL=DEBUG /etc/eventspine/eventspine.env || fail "an upgrade takes settings back"

dpkg -r eventspine >/dev/null
[ ! -e /usr/bin/eventspine ] && [ ! -e /usr/lib/eventspine ] || fail "programs are left after remove"
[ -e /etc/eventspine/eventspine.env ] && [ -e /etc/eventspine/secrets/jwt_secret ] && [ -e /var/lib/eventspine ] || fail "remove takes settings or data"
dpkg -P eventspine >/dev/null
[ ! -e /etc/eventspine ] && [ ! -e /var/lib/eventspine ] || fail "something is left after purge"
echo "eventspine $version: installed, used, upgraded, removed and purged"
END
