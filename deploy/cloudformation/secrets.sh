#!/bin/bash
# usage: secrets.sh [PREFIX [KEYS]]     (default /eventspine/prod, ./keys)
# Makes what the machines have to know and nobody else may, and puts it into SSM's parameter store as
# SecureStrings under PREFIX: a CURVE key pair for every process with the list of all (KEYS, made by `eventspine keygen` if it is not
# there), the secret of tokens, the password of Redis. Nothing that is there already is changed. Keep KEYS in a safe
# place: the operator's own key is in it too.
set -euo pipefail
prefix=${1:-/eventspine/prod} keys=${2:-keys}
eventspine=${EVENTSPINE:-eventspine}
[ -e "$keys/peers" ] || "$eventspine" keygen --three-machines --dir "$keys"

put() { # put NAME, the value on standard input
	local value
	value=$(cat)
	if aws ssm get-parameter --name "$prefix/$1" >/dev/null 2>&1; then
		echo "$prefix/$1 is there already"
		return
	fi
	aws ssm put-parameter --type SecureString --name "$prefix/$1" --value "$value" >/dev/null
	echo "$prefix/$1"
}
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
random | put jwt_secret
random | put redis_password
for key in api worker-1 worker-2 proxy indexer bridge bridges; do
	put "curve/$key.key" <"$keys/$key.key"
done
put curve/peers <"$keys/peers"
