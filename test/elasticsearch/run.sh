#!/usr/bin/env bash
# Runs a genuine Elasticsearch 8.19 in the foreground, for tests and development.
#
#   run.sh PORT DATADIR    serve http://127.0.0.1:PORT with its files in DATADIR; SIGTERM stops it
#   run.sh --fetch         only build the server, so that the next start is quick
#
# The first use fetches the server from Maven Central (107 MB; an empty ~/.m2 is fine). It needs
# mvn and javac 17 or newer. As root it runs as the user nobody, because Elasticsearch refuses root.
#
#   ES_HEAP=1g        Java heap
#   ES_ADDRESS=       another address than 127.0.0.1 to listen at
#   ES_JAVA_OPTS=     more options for the JVM
#   ES_JAVA_HOME=     another Java
#   ES_CACHE=DIR      where the built server is kept (/var/tmp/eventspine-UID/elasticsearch)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${ES_CACHE:-/var/tmp/eventspine-$(id -u)/elasticsearch}
version=$(sed -n 's:.*<es.version>\(.*\)</es.version>.*:\1:p' "$here/pom.xml")
home=$cache/$version

say() { echo "test/elasticsearch: $*" >&2; }

# want COMMAND PACKAGE: the command, installed from the distribution's packages where that is possible.
want() {
	command -v "$1" >/dev/null && return
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		say "installing $2 with apt-get, because $1 is missing"
		apt-get install -y -qq "$2" >/dev/null 2>&1 ||
			{ apt-get update -qq && apt-get install -y -qq "$2"; } >/dev/null
	else
		say "$1 is missing: install the package $2"
		exit 1
	fi
}

build() {
	[ -f "$home/.ready" ] && return
	want javac default-jdk-headless
	want mvn maven
	mkdir -p "$cache"
	exec 9>"$cache/.lock" # two test runs at once build it once
	flock 9
	if [ ! -f "$home/.ready" ]; then
		say "fetching Elasticsearch $version from Maven Central (107 MB) into $home, once"
		work=$(mktemp -d)
		trap 'rm -rf "$work"' EXIT
		cp "$here/pom.xml" "$work/"
		mvn -q -B -f "$work/pom.xml" process-resources >"$work/log" 2>&1 || { cat "$work/log" >&2 && exit 1; }
		dist=$work/target/dist/elasticsearch-$version
		plugin=$dist/modules/eventspine-root
		mkdir -p "$plugin" "$work/classes"
		javac -nowarn --release 17 -d "$work/classes" -cp "$dist/lib/*" "$here/src/RootPlugin.java"
		(cd "$work/classes" && jar cf "$plugin/root.jar" .)
		cat >"$plugin/plugin-descriptor.properties" <<-END
			name=eventspine-root
			description=answers GET /
			version=$version
			elasticsearch.version=$version
			java.version=17
			classname=RootPlugin
		END
		chmod +x "$dist"/bin/*
		rm -rf "$home"
		mv "$dist" "$home"
		chmod -R a+rX "$(dirname "$cache")"
		touch "$home/.ready"
		rm -rf "$work"
		trap - EXIT
	fi
	exec 9>&-
}

# settle PORT DATADIR: the configuration of one single-node server.
settle() {
	mkdir -p "$2"/{data,logs,conf,tmp}
	cp "$home"/config/{log4j2.properties,jvm.options} "$2/conf/"
	sed -i '/^-Xlog/d' "$2/conf/jvm.options" # no garbage collection log
	cat >"$2/conf/elasticsearch.yml" <<-END
		cluster.name: eventspine-test
		node.name: es-$1
		path.data: $2/data
		path.logs: $2/logs
		http.host: ${ES_ADDRESS:-127.0.0.1}
		http.port: $1
		transport.host: 127.0.0.1
		discovery.type: single-node
		action.destructive_requires_name: false
		cluster.routing.allocation.disk.threshold_enabled: false
		xpack.security.enabled: false
	END
}

serve() {
	local port=$1 data as=()
	mkdir -p "$2"
	data=$(realpath "$2")
	settle "$port" "$data"
	if [ "$(id -u)" = 0 ]; then
		chown -R nobody:nogroup "$data"
		as=(setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME="$data/tmp")
	fi
	export ES_JAVA_HOME=${ES_JAVA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v java)")")")}
	export ES_PATH_CONF=$data/conf ES_TMPDIR=$data/tmp
	export ES_JAVA_OPTS="-Xms${ES_HEAP:-1g} -Xmx${ES_HEAP:-1g} -XX:-AlwaysPreTouch ${ES_JAVA_OPTS:-}"
	export CLI_JAVA_OPTS="-Xms4m -Xmx64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"
	unset JAVA_HOME JAVA_OPTS
	exec "${as[@]}" "$home/bin/elasticsearch"
}

case ${1:-} in
--fetch) build ;;
[0-9]*) build && serve "$1" "${2:?usage: run.sh PORT DATADIR}" ;;
*) sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 2 ;;
esac
