# Shared by the scripts of the rehearsal. Every address exists only in namespaces that up.sh makes.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$top/test/rehearsal
state=$top/.cache/rehearsal
venv=$top/.cache/venv
network=eventspine-rehearsal
machines="api processing delivery"
declare -A address=([api]=10.0.1.10 [processing]=10.0.1.20 [delivery]=10.0.1.30 [aws]=10.0.1.5 [alb]=10.0.1.8 [stranger]=10.0.1.99)
name() { echo "eventspine-rehearsal-$1"; }
on() { local m=$1; shift; docker exec "$(name "$m")" "$@"; }                                   # in a machine
within() { local m=$1; shift; nsenter -t "$(docker inspect -f '{{.State.Pid}}' "$(name "$m")-eni")" -n -- "$@"; } # a program of this host in a machine's network
cloud=(AWS_ENDPOINT_URL=http://${address[aws]}:5000 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=us-east-1)
aws_() { env "${cloud[@]}" nsenter -t "$(docker inspect -f '{{.State.Pid}}' "$(name aws)-eni")" -n -- "$@"; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }
wait_for() { # wait_for SECONDS COMMAND: prints how many milliseconds it took, or fails
	local began end
	began=$(now_ms)
	end=$((began + $1 * 1000))
	shift
	until eval "$*" >/dev/null 2>&1; do
		[ "$(now_ms)" -lt $end ] || { echo never; return 1; }
		sleep 0.1
	done
	echo $(($(now_ms) - began))
}
# boot MACHINE: systemd as process 1 with the memory of a t2.medium, in the network of its address, which it cannot change.
boot() {
	local caps=() c
	for c in SYS_ADMIN SYS_PTRACE DAC_READ_SEARCH SYS_NICE SYSLOG IPC_LOCK AUDIT_CONTROL; do caps+=(--cap-add "$c"); done
	docker run -d --name "$(name "$1")" --network "container:$(name "$1")-eni" --cgroupns private --memory 4g --memory-swap 4g --cpus 2 \
		"${caps[@]}" --security-opt seccomp=unconfined --security-opt apparmor=unconfined --tmpfs /run:exec --tmpfs /run/lock --tmpfs /tmp:exec \
		-v "$(name "$1")-data:/var/lib/eventspine" -v "$venv:$venv:ro" eventspine-rehearsal-machine >/dev/null
}
booted() { wait_for 60 "case \$(docker exec $(name "$1") systemctl is-system-running) in running|degraded) true ;; *) false ;; esac" >/dev/null; }
