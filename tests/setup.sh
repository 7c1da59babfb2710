#!/bin/bash
# Installs what the demo, the measurements or the tests need and this machine lacks.
#   tests/setup.sh demo|bench|test
# It leaves the machine as it is otherwise: no daemon is started or enabled by the
# installation, and no configuration file that exists is replaced.
set -eu

want=${1:-test}

# package : a program or file that proves it is there (used where there is no dpkg)
demo="
systemd:systemctl  dbus:dbus-daemon  polkitd:/usr/share/polkit-1/actions
libpam-systemd:/etc/pam.d  dbus-user-session:/usr/lib/systemd/user/dbus.socket
iproute2:ip  e2fsprogs:mke2fs  util-linux:unshare  mount:losetup  procps:ps  perl-base:perl
sqlite3:sqlite3  bsdutils:script  less:less  python3:python3  make:make  gcc:gcc  libc6-dev:/usr/include/stdio.h  postgresql:pg_config  postgresql-client:psql
"
bench="$demo rabbitmq-server:rabbitmqctl"
test="$bench
mmdebstrap:mmdebstrap  user-mode-linux:linux.uml  debian-archive-keyring:/usr/share/keyrings
prometheus:promtool  man-db:man  zsh:zsh  nix-bin:nix
pgbouncer:pgbouncer  faketime:faketime  openssl:openssl  duktape:duk
"

case $want in
demo) list=$demo ;;
bench) list=$bench ;;
test) list=$test ;;
*) echo "usage: tests/setup.sh demo|bench|test" >&2; exit 2 ;;
esac

# What Cargo.toml asks for; Debian's own may be older.
rust=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$(dirname "$0")/../Cargo.toml")
have=$(${CARGO:-cargo} --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p')
if [ "$(printf '%s\n' "$rust" "${have:-0}" | sort -V | head -n 1)" != "$rust" ]; then
    echo "setup: Rust $rust or later is needed, and there is ${have:-none}. Get it from https://rustup.rs: rustup toolchain install stable" >&2
    exit 1
fi

there() { # a program on the path, or a file
    case $1 in /*) [ -e "$1" ] ;; *) command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] ;; esac
}

missing=
if command -v dpkg-query >/dev/null 2>&1; then
    names=; for entry in $list; do names="$names ${entry%%:*}"; done
    # shellcheck disable=SC2086  # a list of words
    installed=" $(dpkg-query -W -f '${db:Status-Abbrev}${Package} ' $names 2>/dev/null || true)"
    for name in $names; do
        case $installed in
        *"ii $name "*) ;;
        *) missing="$missing $name" ;;
        esac
    done
else
    for entry in $list; do there "${entry#*:}" || missing="$missing ${entry%%:*}"; done
fi
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: this machine has no apt-get. Please install what these Debian packages contain, then run this again:$missing" >&2
    exit 1
fi
sudo=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "setup: missing packages need root. Please run: apt-get install --no-install-recommends$missing" >&2
        exit 1
    fi
    sudo=sudo
fi

echo "setup: installing$missing"
work=$(mktemp -d)
policy=/usr/sbin/policy-rc.d
saved=$policy.before-stratavore-setup
restore() {
    if [ -e "$saved" ]; then $sudo mv -f "$saved" "$policy"
    elif [ -e "$work/ours" ]; then $sudo rm -f "$policy"; fi
    rm -rf "$work"
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# No daemon starts while we install: the machine's own policy if it says so, else ours for as long as it takes.
[ ! -e "$saved" ] || $sudo mv -f "$saved" "$policy" # an earlier run was killed
status=0
if [ -x "$policy" ]; then "$policy" rabbitmq-server start >/dev/null 2>&1 || status=$?; fi
if [ "$status" != 101 ]; then
    [ ! -e "$policy" ] || $sudo mv "$policy" "$saved"
    : >"$work/ours"
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod 755 "$policy"
fi

apt() {
    $sudo env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get -q -y \
        -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}
# shellcheck disable=SC2086
if ! { apt update && apt install --no-install-recommends $missing; } >"$work/log" 2>&1; then
    # a third-party source that does not answer makes the update fail, not what we need
    if ! apt install --no-install-recommends $missing >>"$work/log" 2>&1; then
        tail -n 30 "$work/log" >&2
        echo "setup: apt-get could not install:$missing" >&2
        exit 1
    fi
fi

# What we brought in as a tool for the tests is not to come up with the machine.
for name in postgresql pgbouncer rabbitmq-server prometheus; do
    case " $missing " in *" $name "*) ;; *) continue ;; esac
    units=$name.service
    [ $name != rabbitmq-server ] || units="$units epmd.service epmd.socket"
    # shellcheck disable=SC2086
    $sudo systemctl disable $units >/dev/null 2>&1 || true
done
echo "setup: done"
