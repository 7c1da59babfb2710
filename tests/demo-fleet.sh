#!/bin/bash
# The demo's second act: three disposable hosts share a Postgres and one quota; a storm of launches, and one of the hosts dies.
#   tests/demo-fleet.sh FOLDER PAYLOAD    boots them at once, and shows when a line comes on standard input
set -eu
cd "$(dirname "$0")/.."
work=$1 payload=$2
# shellcheck source=tests/demo-common.sh
. tests/demo-common.sh
# shellcheck source=tests/host/common.sh
. tests/host/common.sh
names=(web-1 web-2 web-3)
declare -A supervisors=() addresses=()
stormers=""
bridge='' postgres=''
finish() {
    for pid in "${supervisors[@]}" $postgres; do kill "$pid" 2>/dev/null || true; done
    for pid in "${supervisors[@]}" $postgres; do wait "$pid" 2>/dev/null || true; done
    [ -z "$bridge" ] || ip link del "$bridge" 2>/dev/null || true
}
trap finish EXIT
trap 'exit 143' TERM
fail() { echo "The demo stops here: $*" >&2; exit 1; }

# -- a network, a Postgres in it, three hosts ---------------------------------------------------------------------------
for number in {1..250}; do
    if ip link add "stratanet$number" type bridge 2>/dev/null; then bridge=stratanet$number; break; fi
done
[ -n "$bridge" ] || fail "a bridge can't be made (is the kernel's bridge module there?)"
# So that tests/host/clean.sh knows whose it is.
ip link set "$bridge" alias "$$ $(start_of $$)"
network=10.213.$number
# An address of its own: else a bridge takes one of its cables', and another one when that host is gone; who knew the old one
# does not reach this machine for half a minute.
ip link set "$bridge" address "$(printf '02:00:0a:d5:%02x:01' "$number")"
ip address add "$network.1/24" dev "$bridge"
ip link set "$bridge" up

programs=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
[ -n "$programs" ] || programs=$(pg_config --bindir)
as_postgres() { (cd / && setpriv --reuid=postgres --regid=postgres --init-groups "$@"); }
install -d -o postgres "$work/postgres"
password=$(tr -d - </proc/sys/kernel/random/uuid)
data=$work/postgres/data
# A Postgres of this machine may have the usual port, on all its addresses.
for port in {5432..5532}; do [ -n "$(ss -Hltn "sport = :$port")" ] || break; done
# It lives for ten seconds, so nothing of it is synced to the disk.
as_postgres "$programs/initdb" -N -A trust -U postgres --locale=C.UTF-8 -E UTF8 --no-instructions "$data" >/dev/null
echo "host all all $network.0/24 scram-sha-256" >>"$data/pg_hba.conf"
as_postgres "$programs/postgres" -D "$data" -c fsync=off -c port="$port" -c listen_addresses="$network.1" -c unix_socket_directories="$work/postgres" \
    >"$work/postgres/log" 2>&1 &
postgres=$!
sql() { psql -qAt -h "$work/postgres" -p "$port" -U postgres "$@"; }
for _ in {1..200}; do sql -c 'SELECT' >/dev/null 2>&1 && break; sleep 0.05; done
sql -c "CREATE ROLE stratavore LOGIN PASSWORD '$password'" -c 'CREATE DATABASE stratavore OWNER stratavore' ||
    fail "Postgres did not start: $(tail -n 3 "$work/postgres/log")"

boot() { # NAME ADDRESS
    tests/host/boot.sh --work "$work/$1" --payload "$payload" --files "$work/files" --cable "$bridge,sd$number-${2##*.},$2/24" \
        --want polkit.service --want stratavored.service "$1" >"$work/$1.log" 2>&1 &
    supervisors[$1]=$!
}
on() { local host=$1; shift; tests/host/enter.sh "$work/$host" "$@"; }
up() { # NAME: waits until it is
    for _ in {1..600}; do
        grep -q ^ready "$work/$1.log" && on "$1" stratavorectl status >/dev/null 2>&1 &&
            [ "$(on "$1" busctl get-property org.stratavore1 /org/stratavore1 org.stratavore1.Manager Store)" = 's "ok"' ] && return
        kill -0 "${supervisors[$1]}" 2>/dev/null || break
        sleep 0.05
    done
    cat "$work/$1.log" >&2
    on "$1" systemctl status --no-pager stratavored >&2 || true
    fail "host $1 did not come up"
}
etc=$work/files/etc
mkdir -p "$etc/stratavore" "$etc/systemd/system/stratavored.service.d"
cat >"$etc/stratavore/stratavored.toml" <<END
[store]
url = "postgres://stratavore@$network.1:$port/stratavore?sslmode=disable"
[fleet]
lease_renew = "1s"
lease_ttl = "3s"
END
(umask 077; echo "$password" >"$etc/stratavore/store-password")
printf '[Service]\nLoadCredential=store-password:/etc/stratavore/store-password\nIPAddressAllow=%s.0/24\n' "$network" \
    >"$etc/systemd/system/stratavored.service.d/fleet.conf"
n=1
for name in "${names[@]}"; do n=$((n + 1)) addresses[$name]=$network.$n; boot "$name" "$network.$n"; done
for name in "${names[@]}"; do up "$name"; on "$name" usermod -aG stratavore-users alice; done

# -- the show -----------------------------------------------------------------------------------------------------------
read -r _
say "A fleet: three hosts that know nothing of each other but one Postgres, one project, at most 5 live runners on all of them"
show "$work/web-1" root "stratavorectl project create agents --max-runners 5"

say "A storm: 8 launches on each of the three hosts at the same moment, 24 for 5 places"
for name in "${names[@]}"; do
    tests/host/enter.sh -u alice "$work/$name" bash -c \
        'cd; for i in {1..8}; do (stratavorectl run agents -- sleep 1000 >/dev/null 2>&1; echo $?) & done; wait' >"$work/$name.codes" &
    stormers+=" $!"
done
# shellcheck disable=SC2086
wait $stormers
for name in "${names[@]}"; do
    printf '%s: %s launched, %s refused by the quota\n' "$name" "$(grep -c '^0$' "$work/$name.codes")" "$(grep -c '^3$' "$work/$name.codes")"
done
[ "$(cat "$work"/*.codes | grep -c '^0$')" = 5 ] || fail "5 launches were to be admitted"
show "$work/web-2" alice "stratavorectl list"
show "$work/web-2" alice "stratavorectl run agents -- true"

most=0
for name in "${names[@]}"; do
    n=$(on "$name" bash -c 'ls -d /sys/fs/cgroup/stratavore.slice/*/*.scope 2>/dev/null | wc -l')
    [ "$n" -le "$most" ] || { most=$n victim=$name; }
done
for name in "${names[@]}"; do [ "$name" = "$victim" ] || witness=$name; done
say "$victim, which has $most of the runners, loses its power. Nobody can know from afar whether its work goes on, so its places stay taken"
read -r init <"$work/$victim/init"
kill -KILL "$init"
wait "${supervisors[$victim]}" 2>/dev/null || true
for _ in {1..400}; do
    standing=$(on "$witness" stratavorectl host list -o json) || standing='nothing: there was no answer'
    case $standing in *'"unreachable"'*) break ;; esac
    sleep 0.05
done
case $standing in *'"unreachable"'*) ;; *) fail "$victim is still told to be up: $standing" ;; esac
show "$work/$witness" root "stratavorectl host list"
show "$work/$witness" alice "stratavorectl run agents -- true"

say "It boots again, and says what became of them: their places are free at once, and no event is missing"
boot "$victim" "${addresses[$victim]}"
up "$victim"
show "$work/$witness" alice "stratavorectl list --all"
show "$work/$witness" alice "stratavorectl run --name again agents -- sleep 1000"
show "$work/$witness" root "stratavorectl events | tail -n $((most + 4))"
