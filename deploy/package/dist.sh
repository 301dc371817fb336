#!/usr/bin/env bash
# usage: dist.sh [ARCH…]     the release of this checkout, in dist/: for each architecture (amd64 arm64)
# a .deb and a tarball with the programs, units, manual, shell completions and examples; the bill of
# materials, and the checksums of all. The same checkout gives the same bytes.
#
#   VERSION=1.2.3     the version; otherwise that of the last tag, or 0.0.0+DATE.COMMIT
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
nfpm=$PWD/.cache/bin/nfpm
[ -x "$nfpm" ] || { echo "building nfpm into .cache/bin" && GOBIN=$PWD/.cache/bin go install github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2; }

commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
stamp=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S)
tag=$(git describe --tags --match 'v[0-9]*' --abbrev=0 2>/dev/null || true)
VERSION=${VERSION:-${tag#v}}
VERSION=${VERSION:-0.0.0+$stamp.$commit}
flags=(-trimpath -ldflags "-s -w -X eventspine/internal/run.version=$VERSION") # the same everywhere, without the paths of this machine
export SOURCE_DATE_EPOCH VERSION CGO_ENABLED=0
services=(api worker proxy indexer bridge)
umask 022
rm -rf dist
mkdir -p dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() { # compile ARCH: every program
	GOOS=linux GOARCH=$1 go build "${flags[@]}" -o "$work/bin-$1/" ./cmd/...
}

# documents is what is the same for every architecture.
documents() {
	local share=$work/share name=eventspine
	mkdir -p "$share"/{man/man1,doc/$name/examples,bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}
	go build "${flags[@]}" -o "$work/$name" ./cmd/eventspine
	"$work/$name" man "$share/man/man1"
	"$work/$name" completion bash >"$share/bash-completion/completions/$name"
	"$work/$name" completion zsh >"$share/zsh/vendor-completions/_$name"
	"$work/$name" completion fish >"$share/fish/vendor_completions.d/$name.fish"
	local service
	for service in "${services[@]}"; do
		"$work/$name" config --env "$service" >"$share/doc/$name/examples/$service.env"
	done
	cp rules.example.yaml "$share/doc/$name/examples/"
	cp README.md CHANGELOG.md ARCHITECTURE.md docs/*.md "$share/doc/$name/"
	gzip -n9 "$share"/man/man1/*.1
}

# root ARCH: the files as they lie on a machine.
root() {
	local to=$work/root-$1 lib=$work/root-$1/usr/lib
	mkdir -p "$to/usr/bin" "$lib/eventspine" "$lib/systemd/system"
	cp -r "$work/share" "$to/usr/share"
	cp "$work/bin-$1/eventspine" "$to/usr/bin/"
	cp "${services[@]/#/$work/bin-$1/}" "$lib/eventspine/"
	cp deploy/systemd/*.service "$lib/systemd/system/"
	install -D -m 644 deploy/systemd/sysusers.conf "$lib/sysusers.d/eventspine.conf"
	cp -r deploy/instance "$lib/eventspine/"
	find "$to" -type d -exec chmod 755 {} + -o -perm /111 -exec chmod 755 {} + -o -exec chmod 644 {} +
}

pack() { # pack ARCH: the .deb and the tarball
	local top=eventspine-$VERSION-linux-$1
	ARCH=$1 ROOT=$work/root-$1 "$nfpm" package --config deploy/package/nfpm.yaml --packager deb --target "dist/eventspine_${VERSION}_$1.deb" >/dev/null
	cp -r "$work/root-$1/usr" "$work/$top"
	install -D -m 644 deploy/systemd/eventspine.env "$work/$top/etc/eventspine.env"
	tar -C "$work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -c "$top" | gzip -n9 >"dist/$top.tar.gz"
	go run -trimpath ./deploy/package/sbom eventspine "$VERSION" "$work/bin-$1"/* >"dist/eventspine-$VERSION-linux-$1.cdx.json"
}

documents
[ $# -gt 0 ] || set -- amd64 arm64
for arch; do
	compile "$arch"
	root "$arch"
	pack "$arch"
done
(cd dist && sha256sum -- * >SHA256SUMS)
ls -l dist
