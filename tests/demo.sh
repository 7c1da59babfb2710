#!/bin/bash
# The main job, shown for real on a disposable host: launches, limits, both services killed, adoption, true endings,
# events; then a fleet of three. Everything printed below a "$" is run as it stands there, as the user alice or as root.
set -eu
cd "$(dirname "$0")/.."
built=${STRATAVORE_DEMO_BUILT:-target/release}
work=$(mktemp -d "${TMPDIR:-/tmp}/stratavore-demo.XXXXXX")
began=$(date +%s%N)
chmod 711 "$work" # Postgres lives in a folder of it, as its own user
host='' fleet=''
finish() {
    for pid in $host $fleet; do kill "$pid" 2>/dev/null || true; done
    for pid in $host $fleet; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT
# shellcheck source=tests/demo-common.sh
. tests/demo-common.sh
enter() { tests/host/enter.sh "$work/host" "$@"; }
must() { enter bash -c "$1" || { echo "The demo stops here: $2" >&2; exit 1; }; }

make --no-print-directory -s install DESTDIR="$work/payload" BUILT="$built"
# The fleet of the second act boots meanwhile.
mkfifo "$work/go"
tests/demo-fleet.sh "$work" "$work/payload" <"$work/go" &
fleet=$!
exec 9>"$work/go"
coproc BOOT { exec tests/host/boot.sh --work "$work/host" --payload "$work/payload" \
    --want polkit.service --want stratavored.service demo 2>&1; }
host=$BOOT_PID
ready=
while read -r line <&"${BOOT[0]}"; do
    case $line in ready*) ready=yes; break ;; *) echo "$line" ;; esac
done
[ -n "$ready" ] || { echo "the disposable host did not boot" >&2; exit 1; }
must 'usermod -aG stratavore-users alice && for i in {1..200}; do systemctl is-active -q stratavored && exit 0; sleep .05; done; systemctl status --no-pager stratavored stratavore-agent; exit 1' \
    "stratavored did not start on the disposable host"

say "A host with systemd $(enter systemctl --version | head -1 | cut -d' ' -f2), both services up, one user, no database, no broker, no configuration"
show "$work/host" root "stratavorectl project create demo --max-runners 3 --description 'Agents of the demo'"

say "alice launches: her own user, her own groups, her limits; --max-runners is the project's cap"
show "$work/host" alice "stratavorectl run --name agent --stop-timeout=2s --runtime-max=1h demo -- sh -c 'trap \"\" TERM; echo working; sleep 1000 & wait'"
show "$work/host" alice "stratavorectl run --name build demo -- sh -c 'sleep 2; exit 7'"
show "$work/host" alice "stratavorectl run --name short --runtime-max=1s --stop-timeout=1s demo -- sleep 1000"
show "$work/host" alice "stratavorectl run demo -- true"
show "$work/host" alice "stratavorectl list"

say "A limit holds or is refused: this one needs the kernel's memory controller"
show "$work/host" root "cat /sys/fs/cgroup/cgroup.controllers | sed 's/^/controllers here: /'"
show "$work/host" root "stratavorectl project set demo --max-runners 4"
show "$work/host" alice "stratavorectl run --name limited --memory-max=64M demo -- sleep 1000"
show "$work/host" alice "stratavorectl run demo -- no-such-program"

say "kill -9 for the daemon and for the agent, both at once"
before=$(enter bash -c 'systemctl show -p MainPID --value stratavored stratavore-agent | grep -v "^$" | xargs')
tree=$(enter bash -c 'cat /sys/fs/cgroup/stratavore.slice/*/*.scope/cgroup.procs | sort -n | xargs')
show "$work/host" root "kill -9 $before"
must 'for i in {1..400}; do systemctl is-active -q stratavored stratavore-agent && busctl status org.stratavore1 >/dev/null 2>&1 && [ "$(systemctl show -p MainPID --value stratavored)" != "'"${before%% *}"'" ] && exit 0; sleep .02; done; systemctl status --no-pager stratavored stratavore-agent; exit 1' \
    "the services did not come back"
after=$(enter bash -c 'cat /sys/fs/cgroup/stratavore.slice/*/*.scope/cgroup.procs | sort -n | xargs')
echo "processes of runners before: $tree"
echo "processes of runners after:  $after"
show "$work/host" alice "stratavorectl list"

say "Each ends with its true cause, witnessed or not by the daemon"
must 'for n in build short; do timeout 20 stratavorectl wait "$n" >/dev/null || exit 1; done' "the runners did not end"
show "$work/host" alice "stratavorectl stop agent"
show "$work/host" alice "stratavorectl list --all"
show "$work/host" alice "stratavorectl show build"

say "And every state change is an event, written in the same transaction"
show "$work/host" root "stratavorectl events | tail -12"
if [ -n "$(enter bash -c 'ls /run/stratavore/shims /var/lib/stratavore/exits 2>/dev/null | grep -v : | grep . || true')" ] && [ -z "$(enter bash -c 'stratavorectl list -q 2>/dev/null || true')" ]; then
    echo "something was left over:" >&2; enter ls -l /run/stratavore/shims /var/lib/stratavore/exits >&2; exit 1
fi
kill "$host" && wait "$host" 2>/dev/null || true
host=

echo go >&9
wait "$fleet" || exit 1
fleet=
printf '\n%sdone in %d.%d s%s\n' "$bold" $(( ($(date +%s%N) - began) / 1000000000 )) $(( ($(date +%s%N) - began) / 100000000 % 10 )) "$plain"
