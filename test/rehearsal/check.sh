#!/usr/bin/env bash
# What has to hold on the three machines. The exit status is 1 when something does not.
. "$(dirname "$0")/lib.sh"
failures=0 checks=0
ok() { # ok WHAT COMMAND
	checks=$((checks + 1))
	if eval "$2" >"$state/said" 2>&1; then echo "ok   $1"; else
		echo "FAIL $1"
		tail -5 "$state/said" | sed 's/^/     /'
		failures=$((failures + 1))
	fi
}
declare -A units=([api]="eventspine-api" [processing]="eventspine-redis eventspine-proxy eventspine-worker@1" [delivery]="elasticsearch eventspine-indexer eventspine-bridge")
es() { within delivery curl -sf -m 5 "http://10.0.1.30:9200/$1"; }
secret() { PATH=$venv/bin:$PATH aws_ "$venv/bin/aws" ssm get-parameter --with-decryption --name "/eventspine/prod/$1" --query Parameter.Value --output text; }
eventspine=$state/package/usr/bin/eventspine
cd "$state" || exit 1
JWT_SECRET=$(secret jwt_secret)
export JWT_SECRET
token=$($eventspine token --user shop --scope emit) ana=$($eventspine token --user ana)
curve=(--curve-key "$state/keys/operator.key" --curve-peers "$state/keys/peers")
all_ready() { local m; for m in $machines; do on "$m" eventspine doctor >/dev/null || return 1; done; }
indexed() { es "events-*/_refresh" >/dev/null; es "events-*/_count?q=type:notification.$1" | sed -n 's/.*"count":\([0-9]*\).*/\1/p'; }
post() { within alb curl -s -m 5 -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $token" -H 'Content-Type: application/json' -d "$1" http://10.0.1.10:3000/api/events; }

# another MACHINE UNIT PID: the unit is active with another main process, asked in one breath.
another() { on "$1" systemctl show -p ActiveState -p MainPID "$2" | tr '\n' ' ' | grep -qE '(^| )ActiveState=active ' && [ "$(on "$1" systemctl show -p MainPID --value "$2")" -gt 1 ] && [ "$(on "$1" systemctl show -p MainPID --value "$2")" != "$3" ]; }

echo "== the main job, through the ports of the load balancer"
ok "doctor finds nothing on any machine" all_ready
within alb timeout 60 "$eventspine" tail --user ana --token "$ana" --bridge http://10.0.1.30:3001 --api http://10.0.1.10:3000 >"$state/browser" 2>&1 &
tail=$!
sleep 2
ok "the api accepts an event" '[ "$(post '"'"'{"id":"main-1","type":"notification.main","userId":"ana","data":{"n":1}}'"'"')" = 202 ]'
ok "it is in the browser of its user" 'wait_for 20 "grep -q main-1 $state/browser"'
ok "it is in the index, once" 'wait_for 60 "[ \$(indexed main) = 1 ]"'
kill $tail 2>/dev/null
wait $tail 2>/dev/null

echo "== ports: open or refused where the security groups let in, silence everywhere else"
ports="22 3000 3001 5555 5556 5557 5558 5559 5560 5561 5562 5563 5564 5565 5566 6379 8125 9200 9300 9464 9465"
for m in alb stranger $machines; do within $m python3 "$here/probe.py" ${address[api]} ${address[processing]} ${address[delivery]} $ports | sed "s/^/$m /"; done >"$state/ports"
python3 - "$state/ports" >"$state/ports.wrong" <<'END'
import sys
internal = {"api": "10.0.1.10", "processing": "10.0.1.20", "delivery": "10.0.1.30"}
listens = {"10.0.1.10": {3000, 5555}, "10.0.1.20": {5555, 5556, 5557, 5559, 5560, 5562, 5563, 5564, 5565, 6379}, "10.0.1.30": {3001, 5555, 5556, 9200, 9300}}
for line in open(sys.argv[1]):
    source, host, port, got = line.split()
    port = int(port)
    if internal.get(source) == host:
        continue  # a machine may talk to itself
    let_in = source in internal and (5555 <= port <= 5565 or port in (6379, 9200, 9300)) or source == "alb" and (host, port) in (("10.0.1.10", 3000), ("10.0.1.30", 3001))
    want = "filtered" if not let_in else "open" if port in listens[host] else "refused"
    if got != want:
        print(f"{source} -> {host}:{port} is {got}, not {want}")
END
ok "$(wc -l <"$state/ports") connections, each as the template says" '[ -s $state/ports ] && [ ! -s $state/ports.wrong ] || { cat $state/ports.wrong; false; }'
for m in $machines; do
	ok "$m: nothing listens on every address" '! within '$m' ss -Hltn | awk "{print \$4}" | grep -E "^(0\.0\.0\.0|\*|\[::\]):"'
	ok "$m: no failed unit" '[ -z "$(on '$m' systemctl --failed --no-legend --no-pager)" ]'
done

echo "== CURVE, secrets, limits"
ok "with the operator's key the services answer" 'within api $eventspine ping ${curve[*]} tcp://10.0.1.10:5555 tcp://10.0.1.20:5555 tcp://10.0.1.20:5556 tcp://10.0.1.30:5555 tcp://10.0.1.30:5556'
ok "without a key nobody does" '! within api $eventspine ping --retries 0 tcp://10.0.1.20:5555 && ! within api $eventspine ping --retries 0 tcp://10.0.1.30:5556'
ok "with a key that is not listed nobody does" '$eventspine keygen --out $state/stranger.key >/dev/null; ! within api $eventspine ping --retries 0 --curve-key $state/stranger.key --curve-peers $state/keys/peers tcp://10.0.1.20:5555'
ok "status knows all five services" '[ "$(within api $eventspine status ${curve[*]} --control tcp://10.0.1.20:5562 | grep -cE "(api|worker|proxy|indexer|bridge)-1 ")" -ge 5 ]'
ok "Redis wants its password" 'within api bash -c "exec 3<>/dev/tcp/10.0.1.20/6379; echo PING >&3; timeout 2 head -1 <&3" | grep -q NOAUTH'
for m in $machines; do
	for u in ${units[$m]}; do
		[ $u = elasticsearch ] && continue
		ok "$u: no secret in its environment, not root, its MemoryMax in the kernel" '
			pid=$(on '$m' systemctl show -p MainPID --value '$u'); [ "$pid" -gt 1 ] &&
			! on '$m' cat /proc/$pid/environ | tr "\0" "\n" | grep -qE "^(JWT_SECRET|REDIS_URL|CURVE_KEY)=" &&
			[ "$(on '$m' stat -c %u /proc/$pid)" != 0 ] &&
			on '$m' sh -c "cat /sys/fs/cgroup/memory/system.slice/*'$u'*/memory.limit_in_bytes /sys/fs/cgroup/memory/system.slice/system-*/*'$u'*/memory.limit_in_bytes /sys/fs/cgroup/system.slice/*'$u'*/memory.max 2>/dev/null" | grep -qx "$(on '$m' systemctl show -p MemoryMax --value '$u')"'
	done
done

echo "== each service killed, and back"
for m in $machines; do
	for u in ${units[$m]}; do
		old=$(on $m systemctl show -p MainPID --value $u)
		on $m kill -9 "$old"
		t=$(wait_for 30 "another $m $u $old")
		ok "kill -9 $u: active again after $t ms" '[ '"$t"' != never ] && [ '"$t"' -ge 2500 ] && [ '"$t"' -le 6000 ]'
	done
done
ok "after all of that nothing is wrong" 'wait_for 420 all_ready'

echo "== faults: one clear line in the journal, and the doctor finds the same"
broken() { # broken WHAT LINE FINDING CHANGE MEND: makes a fault of the api's machine, looks, and takes it back
	on api sh -c "$4"
	since=$(on api date '+%Y-%m-%d %H:%M:%S')
	on api systemctl restart eventspine-api >/dev/null 2>&1
	ok "$1: one line a start in the journal" 'wait_for 10 "on api journalctl -o cat --no-pager -u eventspine-api --since \"'"$since"'\" | grep -qE \"'"$2"'\"" && [ "$(on api journalctl -o cat --no-pager -u eventspine-api --since "'"$since"'" | grep -E "^eventspine api:|\"level\":\"ERROR\"" | sort -u | wc -l)" = 1 ]'
	ok "$1: the doctor says it, and how to mend it" 'on api eventspine doctor >$state/doctor; code=$?; cat $state/doctor; [ $code = 1 ] && grep -A1 -E "^FAIL.*'"$3"'" $state/doctor | grep -q "mend: "'
	on api sh -c "$5"
}
dir=/etc/eventspine/secrets
broken "a missing secret" "JWT_SECRET" "JWT_SECRET_FILE cannot be read: open $dir/jwt_secret" "mv $dir/jwt_secret /root/" "mv /root/jwt_secret $dir/"
broken "an address of another machine" "10.0.1.99.*no address of this machine" "10.0.1.99:3000, which is no address" "sed -i 's/API_ADDR=.*/API_ADDR=10.0.1.99/' /etc/eventspine/eventspine-api.env" "sed -i 's/API_ADDR=.*/API_ADDR=10.0.1.10/' /etc/eventspine/eventspine-api.env"
broken "a busy port" "10.0.1.10:3000.*another process" "10.0.1.10:3000, where python3" "systemctl stop eventspine-api; systemd-run -q --unit=squatter python3 -m http.server -b 10.0.1.10 3000; sleep 1" "systemctl stop squatter"
broken "a key that is none" "CURVE_KEY is not a key pair" "CURVE_KEY is not a key pair" "cp $dir/curve/api.key /root/; echo nonsense >$dir/curve/api.key" "mv /root/api.key $dir/curve/api.key"
on api systemctl restart eventspine-api
password=$(secret redis_password)
on processing redis-cli -h 10.0.1.20 -a "$password" --no-auth-warning config set maxmemory-policy allkeys-lru >/dev/null
ok "Redis that evicts: the doctor says it" '! on processing eventspine doctor >$state/doctor; grep -q "^FAIL.*allkeys-lru" $state/doctor'
on processing redis-cli -h 10.0.1.20 -a "$password" --no-auth-warning config set maxmemory-policy noeviction >/dev/null
within delivery curl -s -X DELETE http://10.0.1.30:9200/_index_template/events >/dev/null
ok "a template that is not installed: the doctor says it" 'on delivery eventspine doctor >$state/doctor; grep -q "^FAIL.*index template is not installed" $state/doctor'
on delivery systemctl restart eventspine-indexer
ok "all mended" 'wait_for 420 all_ready'

echo "== a service that hangs is ended by its watchdog"
old=$(on processing systemctl show -p MainPID --value eventspine-proxy)
on processing kill -STOP "$old"
t=$(wait_for 90 "another processing eventspine-proxy $old")
ok "the proxy, stopped: another one runs after $t ms" '[ '"$t"' != never ] && on processing journalctl --no-pager -u eventspine-proxy | grep -q "Watchdog timeout"'

echo "== each machine rebooted in turn, under load"
wait_for 420 all_ready >/dev/null
rm -f "$state"/load*
within alb python3 "$here/load.py" http://10.0.1.10:3000 "$token" reboots 50 "$state/load" &
load=$!
for m in processing delivery api; do
	sleep 5
	began=$(now_ms)
	docker restart -t 30 "$(name $m)" >/dev/null
	booted $m
	ok "$m rebooted in $(($(now_ms) - began)) ms, and its units are back" 'wait_for 120 "on '$m' systemctl is-active -q '"${units[$m]}"'"'
	ok "$m: nothing is wrong after $(wait_for 420 all_ready) ms" all_ready
done
touch "$state/load.stop"
wait $load
read -r accepted refused <"$state/load"
ok "$accepted events accepted ($refused tries refused while the api was away), each in the index once: $(wait_for 300 "[ \$(indexed reboots) = $accepted ]") ms" '[ "$accepted" -gt 500 ] && [ "$(indexed reboots)" = "$accepted" ]'
ok "the firewall outlives the reboot" '! within stranger timeout 1 bash -c ": </dev/tcp/10.0.1.20/6379"'
ok "the journal is kept over reboots" 'on api journalctl --no-pager -o cat -u cloud-final | grep -q "eventspine setup: api"'

echo "== memory, resident, after all of this"
total=0
for m in $machines; do
	sum=0
	for u in ${units[$m]}; do
		pid=$(on $m systemctl show -p MainPID --value $u)
		rss=$(on $m ps -o rss= --ppid "$pid" -p "$pid" | awk '{ n += $1 } END { printf "%d", n / 1024 }')
		sum=$((sum + rss))
		echo "     $m $u: $rss MiB of $(($(on $m systemctl show -p MemoryMax --value $u) >> 20))"
	done
	whole=$(docker stats --no-stream --format '{{.MemUsage}}' "$(name $m)" | cut -d/ -f1)
	echo "     $m: $sum MiB in its units, $whole in all with systemd"
	total=$((total + sum))
done
ok "three machines: $total MiB, at most 3,584" "[ $total -le 3584 ]"
echo "$checks checks, $failures failures, $SECONDS s"
[ $failures = 0 ]
