#!/usr/bin/env bash
# Makes the network, the stand-in for AWS and the firewall, boots three machines and runs the template's own
# UserData in each. DEB=FILE takes a package that is there, otherwise `make dist` makes one of this checkout.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$top"
say() { printf '%4ds %s\n' $SECONDS "$*"; }
. test/deploy/venv.sh
deploy/docker/local-images.sh >/dev/null # Docker, Debian and Elasticsearch
mkdir -p "$state/www"

if [ -z "${DEB:-}" ]; then
	make -s dist ARCH=amd64 >/dev/null
	DEB=$(ls -t dist/*_amd64.deb | head -1)
fi
cp "$DEB" "$state/www/eventspine.deb"
dpkg-deb -x "$DEB" "$state/package"
digest=$(sha256sum "$state/www/eventspine.deb" | cut -d' ' -f1)
say "package $(basename "$DEB")"

search=$(docker images --format '{{.Repository}}:{{.Tag}}' docker.elastic.co/elasticsearch/elasticsearch | head -1)
docker build -q -t eventspine-rehearsal-machine --build-arg ELASTICSEARCH="$search" "$here/machine" >/dev/null
say "machine image, with $search"

docker network create --internal --subnet 10.0.1.0/24 --gateway 10.0.1.1 $network >/dev/null
for m in aws alb stranger $machines; do
	docker run -d --name "$(name $m)-eni" --hostname $m --network $network --ip ${address[$m]} debian:bookworm-slim sleep infinity >/dev/null
done
within aws "$venv/bin/moto_server" -H ${address[aws]} -p 5000 >"$state/moto.log" 2>&1 &
echo $! >"$state/moto.pid"
within aws python3 -m http.server -b ${address[aws]} -d "$state/www" 8080 >"$state/www.log" 2>&1 &
echo $! >"$state/www.pid"
wait_for 60 within aws curl -s -o /dev/null http://${address[aws]}:5000/moto-api/ >/dev/null
say "network, six namespaces, stand-in for AWS"

EVENTSPINE=$state/package/usr/bin/eventspine PATH=$venv/bin:$PATH aws_ deploy/cloudformation/secrets.sh /eventspine/prod "$state/keys" >/dev/null
aws_ "$venv/bin/python" "$here/read.py" "$state" ${address[alb]} http://${address[aws]}:8080/eventspine.deb "$digest"
say "secrets and stack"

for m in $machines; do
	within $m iptables-restore <"$state/$m/rules"
done
say "firewall of each machine, from the security groups"

# The worst order: those that depend on others first.
for m in delivery api processing; do
	boot $m
	booted $m
	{
		printf '%s\n' "${cloud[@]}"
		echo "REHEARSAL_PACKAGES=$(echo "$venv"/lib/python3*/site-packages)"
	} | docker exec -i "$(name $m)" sh -c 'cat >/etc/rehearsal.env'
	docker cp -q "$state/$m/user-data" "$(name $m):/root/user-data"
	docker cp -q "$state/$m/instance-id" "$(name $m):/var/lib/cloud/data/instance-id"
	# What cloud-init does with it.
	on $m systemd-run -q --unit=cloud-final --no-block --setenv=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /bin/bash /root/user-data
	say "$m is booted, its UserData runs"
done
# The disks of the machines are this host's, however full that is.
wait_for 300 "within delivery curl -sf -X PUT -H 'Content-Type: application/json' -d '{\"persistent\":{\"cluster.routing.allocation.disk.threshold_enabled\":false}}' http://10.0.1.30:9200/_cluster/settings" >/dev/null || true
for m in delivery api processing; do
	if ! wait_for 600 "[ -n \"\$(on $m cat /var/lib/cloud/signals)\" ]" >/dev/null || ! on $m grep -q -- '--status SUCCESS' /var/lib/cloud/signals; then
		on $m journalctl --no-pager -u cloud-final | tail -40
		echo "FAIL $m: its UserData did not succeed"
		exit 1
	fi
	say "$m: UserData succeeded"
done
