# Runs as root on a kernel with all of cgroup v2. Each check prints what it saw; any failure ends the run.
set -u
fail() { echo "FAILED: $*"; journalctl --no-pager -n 40 -u stratavored -u stratavore-agent; exit 1; }
for _ in $(seq 600); do stratavorectl -q status >/dev/null 2>&1 && break; sleep .1; done
stratavorectl status || fail "not up"
cat /sys/fs/cgroup/cgroup.controllers
usermod -aG stratavore-users alice
stratavorectl project create p || fail "project"
run() { setpriv --reuid alice --regid alice --init-groups env -C /tmp stratavorectl "$@"; }
at() { cat /sys/fs/cgroup/stratavore.slice/*/stratavore-"$1".scope/"$2"; }
ended() { timeout 120 stratavorectl wait "$1" >/dev/null || fail "$1 does not end"; stratavorectl show -o json "$1"; }
field() { python3 -c 'import json,sys; v=json.load(sys.stdin)
for k in sys.argv[1].split("."): v=v[k]
print(v)' "$1"; }
hog='x = bytearray()
import sys
while True: x += bytes(4 << 20)'
is() { [ "$2" = "$3" ] || fail "$1: $2, not $3"; echo "ok: $1 = $2"; }

# What this kernel does not offer is refused, though the controller is there.
run run --io-weight=70 p -- true 2>/tmp/io && { [ -e /sys/fs/cgroup/stratavore.slice/io.weight ] || fail "io-weight was accepted"; }
# Every limit is in the kernel's files.
id=$(run run --memory-max=64M --memory-high=48M --memory-swap-max=0 --cpu-quota=150% --cpu-weight=50 --tasks-max=20 p -- sleep 1000) || fail "limited launch"
is memory.max "$(at $id memory.max)" 67108864
is memory.high "$(at $id memory.high)" 50331648
[ ! -e /sys/fs/cgroup/stratavore.slice/memory.swap.max ] || is memory.swap.max "$(at $id memory.swap.max)" 0
is cpu.max "$(at $id cpu.max)" "150000 100000"
is cpu.weight "$(at $id cpu.weight)" 50
is pids.max "$(at $id pids.max)" 21
# Changed live, and lifted.
stratavorectl set $id memory-max=80M tasks-max=30 cpu-quota=infinity || fail "set"
is memory.max "$(at $id memory.max)" 83886080
is pids.max "$(at $id pids.max)" 31
is cpu.max "$(at $id cpu.max)" "max 100000"
is shown "$(stratavorectl show -o json $id | field limits.memory_max)" 83886080
stratavorectl stop $id || fail stop

# OOM: the main process.
id=$(run run --memory-max=40M --memory-swap-max=0 p -- python3 -c "$hog")
r=$(ended $id)
is "cause of an OOM" "$(echo "$r" | field exit.cause)" oom-kill
is "signal of an OOM" "$(echo "$r" | field exit.signal)" SIGKILL
[ "$(echo "$r" | field usage.oom_kills)" -ge 1 ] || fail "oom_kills: $r"
peak=$(echo "$r" | field usage.memory_peak_bytes)
[ "$peak" -gt 30000000 ] && [ "$peak" -le 41943040 ] || fail "memory peak $peak"
# A child only: counted and shown, and the cause stays the main process's own.
id=$(run run --memory-max=40M --memory-swap-max=0 --oom-policy=continue p -- sh -c "python3 -c '$hog'; exit 5")
r=$(ended $id)
is "cause with a child's OOM" "$(echo "$r" | field exit.cause)" exit-code
is "its code" "$(echo "$r" | field exit.code)" 5
is "the child's OOM is counted" "$(echo "$r" | field usage.oom_kills)" 1
# The policies.
id=$(run run --memory-max=40M --memory-swap-max=0 --oom-policy=kill p -- sh -c "python3 -c '$hog'; exit 5")
is "oom-policy=kill" "$(ended $id | field exit.cause)" oom-kill
id=$(run run --memory-max=40M --memory-swap-max=0 --oom-policy=stop p -- sh -c "python3 -c '$hog'; sleep 1000")
is "oom-policy=stop" "$(ended $id | field exit.cause)" oom-kill

# Tasks: fork fails at the limit, the shim's own task is not the runner's.
id=$(run run --tasks-max=5 p -- bash -c 'for i in 1 2 3 4 5 6 7 8; do sleep 5 & done 2>/dev/null; jobs -p | wc -l > /tmp/jobs')
ended $id >/dev/null
[ "$(cat /tmp/jobs 2>/dev/null || echo 0)" -le 4 ] || fail "tasks: $(cat /tmp/jobs)"
echo "ok: tasks-max"
# CPU: throttled.
# What it computes has no end: a loop of so many turns is done within its quota on a quick machine.
id=$(run run --cpu-quota=20% p -- sh -c 'while :; do :; done')
for _ in $(seq 300); do [ "$(at $id cpu.stat | sed -n 's/nr_throttled //p')" -gt 2 ] && break; sleep .1; done
[ "$(at $id cpu.stat | sed -n 's/nr_throttled //p')" -gt 2 ] || fail "not throttled"
echo "ok: cpu-quota throttles"
stratavorectl stop $id

# A project's limits are its slice's.
stratavorectl project set p --memory-max 200M --tasks-max 100 || fail "project set"
is "the slice's memory.max" "$(cat /sys/fs/cgroup/stratavore.slice/stratavore-p.slice/memory.max)" 209715200
is "the slice's pids.max" "$(cat /sys/fs/cgroup/stratavore.slice/stratavore-p.slice/pids.max)" 100
systemctl stop stratavored stratavore-agent && systemctl start stratavored || fail "restart"
id=$(run run p -- true) || fail "launch after restart"
is "still" "$(cat /sys/fs/cgroup/stratavore.slice/stratavore-p.slice/memory.max)" 209715200
# The slice of all protects the host.
[ "$(cat /sys/fs/cgroup/stratavore.slice/memory.max)" != max ] || fail "stratavore.slice has no MemoryMax"
[ "$(cat /sys/fs/cgroup/stratavore.slice/pids.max)" != max ] || fail "stratavore.slice has no TasksMax"
# Usage as the kernel counts it, at the very end.
id=$(run run --memory-max=100M p -- python3 -c 'x = b"x" * (50 << 20)')
r=$(ended $id)
peak=$(echo "$r" | field usage.memory_peak_bytes)
[ "$peak" -gt 52428800 ] && [ "$peak" -le 104857600 ] || fail "peak $peak"
[ "$(echo "$r" | field usage.cpu_usec)" -gt 0 ] || fail "cpu"
# A core dump is told from a signal.
echo core > /proc/sys/kernel/core_pattern; install -d -m 777 /srv/cores
id=$(run run --working-directory=/srv/cores p -- sh -c 'ulimit -c unlimited; kill -ABRT $$')
is "a core dump" "$(ended $id | field exit.cause)" core-dump

# Configured defaults, and root's ceilings, which no launch gets past.
stratavorectl project set p --memory-max infinity --tasks-max infinity || fail "lifting the project's limits"
is "the lifted limit" "$(cat /sys/fs/cgroup/stratavore.slice/stratavore-p.slice/memory.max)" max
install -d /etc/stratavore
printf '[limits]\ntasks_max = 50\nstop_timeout = "3s"\n' > /etc/stratavore/stratavored.toml
printf '[ceilings]\nmemory_max = "100M"\n' > /etc/stratavore/agent.toml
systemctl restart stratavore-agent stratavored || fail "restart with a configuration"
id=$(run run p -- sleep 1000) || fail "launch with defaults"
is "the configured pids.max" "$(at $id pids.max)" 51
is "the ceiling is the limit" "$(at $id memory.max)" 104857600
is "and shown" "$(stratavorectl show -o json $id | field limits.tasks_max)" 50
run run --memory-max=200M p -- true 2>/tmp/above && fail "more than the ceiling was granted"
grep -q 'memory-max' /tmp/above || fail "the refusal does not name the limit: $(cat /tmp/above)"
stratavorectl set $id memory-max=200M 2>/dev/null && fail "more than the ceiling was set"
stratavorectl stop $id || fail "stop"
for _ in $(seq 100); do left=$(ls /run/stratavore/shims /var/lib/stratavore/exits | grep -v :); [ -z "$left" ] && break; sleep .1; done
[ -z "$left" ] || fail "left over: $left"

# With --user, what systemd delegates to users holds, too.
uid=$(id -u alice)
systemctl start "user@$uid.service" || fail "alice has no manager"
mine() { setpriv --reuid alice --regid alice --init-groups env -C /home/alice HOME=/home/alice XDG_RUNTIME_DIR="/run/user/$uid" stratavorectl --user "$@"; }
for _ in $(seq 100); do [ -S "/run/user/$uid/bus" ] && break; sleep .1; done
mine project create p || fail "alice's project"
id=$(mine run --memory-max=40M --memory-swap-max=0 --tasks-max=20 p -- python3 -c "$hog") || fail "alice's launch"
timeout 120 setpriv --reuid alice env XDG_RUNTIME_DIR="/run/user/$uid" stratavorectl --user wait "$id" >/dev/null || fail "alice's runner does not end"
r=$(mine show -o json "$id")
is "cause of an OOM with --user" "$(echo "$r" | field exit.cause)" oom-kill
peak=$(echo "$r" | field usage.memory_peak_bytes)
[ "$peak" -gt 30000000 ] && [ "$peak" -le 41943040 ] || fail "alice's memory peak $peak"
id=$(mine run --memory-max=64M --tasks-max=20 p -- sleep 1000) || fail "alice's second launch"
scope() { cat /sys/fs/cgroup/user.slice/user-$uid.slice/user@$uid.service/stratavore.slice/*/stratavore-$id.scope/$1; }
is "alice's memory.max" "$(scope memory.max)" 67108864
is "alice's pids.max" "$(scope pids.max)" 21
mine set "$id" memory-max=80M || fail "alice's set"
is "alice's memory.max, changed" "$(scope memory.max)" 83886080
mine stop "$id" || fail "alice's stop"
echo "ALL HELD"
