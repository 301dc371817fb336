#!/bin/sh
# Makes the secrets of docker-compose.yml once; what is there stays. Each file may be read by its service alone.
set -eu
umask 077
service=65532 redis=$(id -u redis)
jwt=/run/eventspine/jwt access=/run/eventspine/redis

random() { head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n'; }

# keep FILE OWNER: the file from standard input, there as a whole or not at all.
keep() {
	rm -f "$1.new"
	cat >"$1.new"
	chown "$2" "$1.new"
	mv "$1.new" "$1"
}

if [ ! -s $jwt/secret ]; then
	random | keep $jwt/secret $service
	echo "made $jwt/secret"
fi
if [ ! -s $access/url ] || [ ! -s $access/users.acl ]; then
	password=$(random)
	# The default user must keep all rights: Redis loads its own file with them. Its password is nobody's.
	keep $access/users.acl "$redis" <<-END
		user default on >$(random) ~* &* +@all
		user probe on >probe -@all +info
		user spine on >$password ~spine:* &* -@all +@read +@write +@transaction +@connection +@scripting +info +time +config|get
	END
	echo "redis://spine:$password@redis:6379/0" | keep $access/url $service
	echo "made the password of Redis"
fi
chmod 711 $jwt $access
