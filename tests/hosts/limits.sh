# Runs as root on a kernel with all of cgroup v2. Each check prints what it saw; any failure ends the run.
set -u
# Also out of $(…), whose standard output goes elsewhere and which ends alone.
exec 3>&1
fail() { { echo "FAILED: $*"; journalctl --no-pager -n 40 -u stratavored -u stratavore-agent; } >&3; kill -TERM $$; exit 1; }
trap 'exit 1' TERM
# Until a command holds, for two minutes: this machine is ten times slower, and others run beside it.
until_so() { local until=$((SECONDS + 120)); until "$@"; do [ $SECONDS -lt $until ] || return 1; sleep .1; done; }
up() { stratavorectl -q status >/dev/null 2>&1; }
until_so up
stratavorectl status || fail "not up"
cat /sys/fs/cgroup/cgroup.controllers
usermod -aG stratavore-users alice
stratavorectl project create p || fail "project"
run() { setpriv --reuid alice --regid alice --init-groups env -C /tmp stratavorectl "$@"; }
at() { cat /sys/fs/cgroup/stratavore.slice/*/stratavore-"$1".scope/"$2"; }
ended() {
    timeout 120 stratavorectl wait "$1" >/dev/null || fail "runner “$1” does not end: $(stratavorectl show -o json "$1" 2>&1)"
    stratavorectl show -o json "$1" || fail "show $1"
}
field() { python3 -c 'import json,sys; v=json.load(sys.stdin)
for k in sys.argv[1].split("."): v=v[k]
print(v)' "$1"; }
# Right after a start the daemon may not have noticed yet that its agent is another one; it refuses launches until they
# have met.
launches() { run run p -- true >/dev/null 2>/tmp/met; }
met() { until_so launches || fail "daemon and agent have not met: $(cat /tmp/met)"; }
# The limit was reached, and held: the kernel alone may go over it for a moment, by a few pages.
at_limit() { [ "$2" -gt $(($3 * 3 / 4)) ] && [ "$2" -le $(($3 + 262144)) ] || fail "$1: $2, not just below $3"; echo "ok: $1 = $2"; }
hog='x = bytearray()
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
id=$(run run --memory-max=40M --memory-swap-max=0 p -- python3 -c "$hog") || fail "launch of what takes all memory"
r=$(ended $id)
is "cause of an OOM" "$(echo "$r" | field exit.cause)" oom-kill
is "signal of an OOM" "$(echo "$r" | field exit.signal)" SIGKILL
[ "$(echo "$r" | field usage.oom_kills)" -ge 1 ] || fail "oom_kills: $r"
at_limit "memory peak of an OOM" "$(echo "$r" | field usage.memory_peak_bytes)" 41943040
# A child only: counted and shown, and the cause stays the main process's own.
id=$(run run --memory-max=40M --memory-swap-max=0 --oom-policy=continue p -- sh -c "python3 -c '$hog'; exit 5") || fail "launch with oom-policy=continue"
r=$(ended $id)
is "cause with a child's OOM" "$(echo "$r" | field exit.cause)" exit-code
is "its code" "$(echo "$r" | field exit.code)" 5
is "the child's OOM is counted" "$(echo "$r" | field usage.oom_kills)" 1
# The policies.
id=$(run run --memory-max=40M --memory-swap-max=0 --oom-policy=kill p -- sh -c "python3 -c '$hog'; exit 5") || fail "launch with oom-policy=kill"
is "oom-policy=kill" "$(ended $id | field exit.cause)" oom-kill
id=$(run run --memory-max=40M --memory-swap-max=0 --oom-policy=stop p -- sh -c "python3 -c '$hog'; sleep 1000") || fail "launch with oom-policy=stop"
is "oom-policy=stop" "$(ended $id | field exit.cause)" oom-kill

# Tasks: fork fails at the limit, the shim's own task is not the runner's: four beside the first of five.
forks='import os, signal
children = []
why = "no limit"
try:
    while len(children) < 8:
        child = os.fork()
        if not child: signal.pause()
        children.append(child)
except BlockingIOError: why = "refused"
open("/tmp/forks", "w").write(f"{len(children)} {why}")
for child in children: os.kill(child, signal.SIGKILL); os.waitpid(child, 0)'
id=$(run run --tasks-max=5 p -- python3 -c "$forks") || fail "launch with tasks-max"
is "cause of an end at tasks-max" "$(ended $id | field exit.cause)" success
is "tasks below tasks-max" "$(cat /tmp/forks)" "4 refused"
# CPU: throttled.
# What it computes has no end: a loop of so many turns is done within its quota on a quick machine.
id=$(run run --cpu-quota=20% p -- sh -c 'while :; do :; done') || fail "launch with cpu-quota"
throttled() { [ "$(at $id cpu.stat | sed -n 's/nr_throttled //p')" -gt 2 ]; }
until_so throttled || fail "not throttled: $(at $id cpu.stat)"
echo "ok: cpu-quota throttles"
stratavorectl stop $id || fail "stop of what is throttled"

# A project's limits are its slice's.
stratavorectl project set p --memory-max 200M --tasks-max 100 || fail "project set"
is "the slice's memory.max" "$(cat /sys/fs/cgroup/stratavore.slice/stratavore-p.slice/memory.max)" 209715200
is "the slice's pids.max" "$(cat /sys/fs/cgroup/stratavore.slice/stratavore-p.slice/pids.max)" 100
# One after the other: a daemon that still runs would have its agent started again.
systemctl stop stratavored && systemctl stop stratavore-agent && systemctl start stratavored || fail "restart"
met
is "still" "$(cat /sys/fs/cgroup/stratavore.slice/stratavore-p.slice/memory.max)" 209715200
# The slice of all protects the host.
[ "$(cat /sys/fs/cgroup/stratavore.slice/memory.max)" != max ] || fail "stratavore.slice has no MemoryMax"
[ "$(cat /sys/fs/cgroup/stratavore.slice/pids.max)" != max ] || fail "stratavore.slice has no TasksMax"
# Usage as the kernel counts it, at the very end.
id=$(run run --memory-max=100M p -- python3 -c 'x = b"x" * (50 << 20)') || fail "launch for its usage"
r=$(ended $id)
peak=$(echo "$r" | field usage.memory_peak_bytes)
[ "$peak" -gt 52428800 ] && [ "$peak" -le 104857600 ] || fail "peak $peak"
[ "$(echo "$r" | field usage.cpu_usec)" -gt 0 ] || fail "cpu"
# A core dump is told from a signal.
echo core > /proc/sys/kernel/core_pattern; install -d -m 777 /srv/cores
id=$(run run --working-directory=/srv/cores p -- sh -c 'ulimit -c unlimited; kill -ABRT $$') || fail "launch for a core dump"
is "a core dump" "$(ended $id | field exit.cause)" core-dump

# Configured defaults, and root's ceilings, which no launch gets past.
stratavorectl project set p --memory-max infinity --tasks-max infinity || fail "lifting the project's limits"
is "the lifted limit" "$(cat /sys/fs/cgroup/stratavore.slice/stratavore-p.slice/memory.max)" max
install -d /etc/stratavore
printf '[limits]\ntasks_max = 50\nstop_timeout = "3s"\n' > /etc/stratavore/stratavored.toml
printf '[ceilings]\nmemory_max = "100M"\n' > /etc/stratavore/agent.toml
systemctl restart stratavore-agent stratavored || fail "restart with a configuration"
met
id=$(run run p -- sleep 1000) || fail "launch with defaults"
is "the configured pids.max" "$(at $id pids.max)" 51
is "the ceiling is the limit" "$(at $id memory.max)" 104857600
is "and shown" "$(stratavorectl show -o json $id | field limits.tasks_max)" 50
run run --memory-max=200M p -- true 2>/tmp/above && fail "more than the ceiling was granted"
grep -q 'memory-max' /tmp/above || fail "the refusal does not name the limit: $(cat /tmp/above)"
stratavorectl set $id memory-max=200M 2>/dev/null && fail "more than the ceiling was set"
stratavorectl stop $id || fail "stop"
left() { ls /run/stratavore/shims /var/lib/stratavore/exits | grep -v :; }
none_left() { [ -z "$(left)" ]; }
until_so none_left || fail "left over: $(left)"

# With --user, what systemd delegates to users holds, too.
uid=$(id -u alice)
systemctl start "user@$uid.service" || fail "alice has no manager"
mine() { setpriv --reuid alice --regid alice --init-groups env -C /home/alice HOME=/home/alice XDG_RUNTIME_DIR="/run/user/$uid" stratavorectl --user "$@"; }
until_so [ -S "/run/user/$uid/bus" ] || fail "alice has no bus"
mine project create p || fail "alice's project"
id=$(mine run --memory-max=40M --memory-swap-max=0 --tasks-max=20 p -- python3 -c "$hog") || fail "alice's launch"
timeout 120 setpriv --reuid alice env XDG_RUNTIME_DIR="/run/user/$uid" stratavorectl --user wait "$id" >/dev/null || fail "alice's runner does not end"
r=$(mine show -o json "$id") || fail "alice's show"
is "cause of an OOM with --user" "$(echo "$r" | field exit.cause)" oom-kill
at_limit "memory peak of an OOM with --user" "$(echo "$r" | field usage.memory_peak_bytes)" 41943040
id=$(mine run --memory-max=64M --tasks-max=20 p -- sleep 1000) || fail "alice's second launch"
scope() { cat /sys/fs/cgroup/user.slice/user-$uid.slice/user@$uid.service/stratavore.slice/*/stratavore-$id.scope/$1; }
is "alice's memory.max" "$(scope memory.max)" 67108864
is "alice's pids.max" "$(scope pids.max)" 21
mine set "$id" memory-max=80M || fail "alice's set"
is "alice's memory.max, changed" "$(scope memory.max)" 83886080
mine stop "$id" || fail "alice's stop"
echo "ALL HELD"
