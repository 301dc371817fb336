#!/usr/bin/env bash
# usage: local-images.sh     see to it that the images which Dockerfile and docker-compose.yml name are there.
#
# An image that can be pulled is pulled. Where no registry can be reached, a stand-in is made under
# the same name, and labelled eventspine.stand-in: Go and Debian as on this machine, Redis from the
# distribution's packages, a genuine Elasticsearch from Maven Central. Docker itself, its compose and its
# buildx are installed from the distribution's packages where they are missing, and said so.
#
#   FORCE=1       make the stand-ins anew
#   WORK=DIR      where files are put together (/var/tmp/eventspine-UID/images)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${WORK:-/var/tmp/eventspine-$(id -u)/images}
mkdir -p "$work"

say() { echo "deploy/docker: $*" >&2; }

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

packages() {
	say "installing from the distribution's packages: $*"
	"${as_root[@]}" apt-get update -qq
	DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# mirror is where this machine gets Debian's packages from.
mirror() {
	sed -nE 's/^URIs: *([^ ]+).*/\1/p; s/^deb (\[[^]]*\] )?([^ ]+) .*/\2/p' /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1
}

engine() {
	docker info >/dev/null 2>&1 && return
	command -v dockerd >/dev/null || packages docker.io iptables
	say "starting dockerd; its log is $work/dockerd.log"
	"${as_root[@]}" setsid nohup dockerd >"$work/dockerd.log" 2>&1 </dev/null &
	for _ in $(seq 60); do
		docker info >/dev/null 2>&1 && return
		sleep 0.5
	done
	tail -n 5 "$work/dockerd.log" >&2
	exit 1
}

# plugins puts compose and buildx into the user's plug-ins: Debian 12 has neither, Debian 13's are static.
plugins() {
	docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1 && return
	local apt=$work/apt to=$HOME/.docker/cli-plugins
	say "installing docker's compose and buildx from Debian 13's packages into $to"
	mkdir -p "$apt"/{lists/partial,archives/partial,out} "$to"
	: >"$apt/status"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) trixie main" >"$apt/sources.list"
	local options=(-qq -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$apt/lists"
		-o Dir::Cache="$apt" -o Dir::State::status="$apt/status" -o APT::Sandbox::User=root)
	apt-get "${options[@]}" update
	(cd "$apt/out" && apt-get "${options[@]}" download docker-compose docker-buildx && for deb in *.deb; do dpkg-deb -x "$deb" x; done)
	install "$apt"/out/x/usr/libexec/docker/cli-plugins/docker-{compose,buildx} "$to/"
	rm -rf "$apt"
}

# context empties a directory for the files of an image and prints it.
context() {
	rm -rf "${work:?}/$1"
	mkdir -p "$work/$1"
	echo "$work/$1"
}

# debian makes the base of the other stand-ins: a minimal Debian 12 with this machine's mirror and authorities.
debian() {
	docker image inspect debian:bookworm-slim >/dev/null 2>&1 && [ -z "${FORCE:-}" ] && return
	[ -z "${FORCE:-}" ] && docker pull -q debian:bookworm-slim >/dev/null 2>&1 && return
	command -v debootstrap >/dev/null || packages debootstrap
	local to
	to=$(context debian)
	say "making debian:bookworm-slim"
	"${as_root[@]}" debootstrap --variant=minbase --include=ca-certificates bookworm "$to" "$(mirror)" >"$work/debootstrap.log" 2>&1
	cp /usr/local/share/ca-certificates/*.crt "$to/usr/local/share/ca-certificates/" 2>/dev/null || true
	"${as_root[@]}" chroot "$to" update-ca-certificates >/dev/null 2>&1
	printf '#!/bin/sh\nexit 101\n' >"$to/usr/sbin/policy-rc.d" # packages start no services
	chmod +x "$to/usr/sbin/policy-rc.d"
	printf 'path-exclude /usr/share/%s/*\n' doc man locale >"$to/etc/dpkg/dpkg.cfg.d/slim"
	rm -rf "$to"/usr/share/{doc,man,locale}/* "$to"/var/lib/apt/lists/* "$to"/var/cache/apt/archives/*.deb
	"${as_root[@]}" tar -C "$to" -c . | docker import -c 'CMD ["bash"]' -c 'LABEL eventspine.stand-in=debootstrap' - debian:bookworm-slim >/dev/null
	"${as_root[@]}" rm -rf "$to"
}

# stand_in NAME IMAGE: the image, pulled or made by the function NAME and stand-ins/NAME.
stand_in() {
	if [ -z "${FORCE:-}" ]; then
		docker image inspect "$2" >/dev/null 2>&1 && return
		docker pull -q "$2" >/dev/null 2>&1 && return
	fi
	debian
	local to
	to=$(context "$1")
	cp -r "$here/stand-ins/$1/." "$to/"
	say "making $2"
	"$1" "$to"
	docker build -q -t "$2" "$to" >/dev/null
	rm -rf "$to"
}

golang() { cp -a "$(go env GOROOT)" "$1/go"; }

redis() { :; }

elasticsearch() {
	"$root/test/elasticsearch/run.sh" --fetch
	local jdk cache=${ES_CACHE:-/var/tmp/eventspine-$(id -u)/elasticsearch}
	cp -a "$cache/${image_elasticsearch##*:}" "$1/es"
	rm -rf "$1"/es/{.ready,data,logs}
	jdk=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")
	"$jdk/bin/jlink" --add-modules ALL-MODULE-PATH --strip-java-debug-attributes --no-man-pages --no-header-files --compress=2 --output "$1/jdk"
}

# image_of NAME: the image that docker-compose.yml gives the service.
image_of() { sed -nE "s,^ *image: *([^ ]*$1:[^ ]+)\$,\1,p" "$root/docker-compose.yml" | head -n 1; }

go_version=$(sed -nE 's/^ARG GO_VERSION=(.*)/\1/p' "$root/Dockerfile")
image_elasticsearch=$(image_of elasticsearch)
engine
plugins
stand_in redis "$(image_of redis)"
stand_in elasticsearch "$image_elasticsearch"
stand_in golang "golang:$go_version-bookworm"
