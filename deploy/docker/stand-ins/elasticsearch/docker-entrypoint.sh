#!/bin/bash
# As in the official image: variables with a dot in their name are settings of Elasticsearch.
set -e
settings=()
while IFS='=' read -r -d '' name value; do
	[[ $name =~ ^[a-z0-9_]+\.[a-z0-9_.]+$ ]] && settings+=("-E$name=$value")
done </proc/self/environ
[ "$1" = eswrapper ] || exec "$@"
exec elasticsearch "${settings[@]}"
