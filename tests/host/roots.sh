#!/bin/bash
# Makes and keeps the Debian roots that test hosts boot from.
#   tests/host/roots.sh trixie        systemd 257, dbus-daemon and dbus-broker
#   tests/host/roots.sh sid           the newest systemd, both buses
#   tests/host/roots.sh dbus-broker   only dbus-broker, as a layer over this machine's own root
#   tests/host/roots.sh trixie.ext4   the root as a disk image (for tests/host/uml.sh)
# Prints the path. They are kept in ${STRATAVORE_TEST_CACHE:-target/test-roots}; delete a root there to have it made again.
# STRATAVORE_TEST_MIRROR names another Debian mirror than mmdebstrap's own choice.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/host/common.sh
. "$here/common.sh"

name=${1:-}
case $name in
trixie | sid | dbus-broker | trixie.ext4 | sid.ext4) ;;
*) echo "usage: tests/host/roots.sh trixie|sid|dbus-broker|trixie.ext4|sid.ext4" >&2; exit 2 ;;
esac

packages=systemd,systemd-sysv,dbus,dbus-broker,dbus-user-session,udev,polkitd,libpam-systemd
packages=$packages,mount,login,passwd,iproute2,procps,sudo,openssh-server,openssh-client,python3,sqlite3
version=4 # of the list above: raise it when the list changes, and the roots are made anew

cache=$(cache_folder)
made=$cache/$name
stamp=$cache/.$name.made
# An image is as new as its root.
case $name in *.ext4)
    root=$("$here/roots.sh" "${name%.ext4}")
    version=$version.$(stat -c %Y "$cache/.${name%.ext4}.made")
    ;;
esac
current() { [ -e "$made" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$version" ]; }
if current; then echo "$made"; exit 0; fi

need_root
mkdir -p "$cache"
# Two callers: the second waits for the first, and finds its root.
exec 9>"$cache/.$name.lock"
flock 9
if current; then echo "$made"; exit 0; fi

half=$cache/.$name.half
log=$cache/.$name.log
remove_half() { rm -rf --one-file-system "$half"; }
trap remove_half EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
say() { echo "roots: $*" >&2; }

debian_root() { # RELEASE
    need_program mmdebstrap mmdebstrap
    # shellcheck disable=SC2086  # no mirror named: none given
    mmdebstrap --mode=root --variant=apt --include="$packages" \
        --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$1" "$half" ${STRATAVORE_TEST_MIRROR:-} &&
        rm -rf "$half"/var/lib/apt/lists/* "$half"/var/cache/apt/* &&
        first_program >"$half/usr/local/sbin/test-init" &&
        chmod 755 "$half/usr/local/sbin/test-init" &&
        [ -x "$half/usr/lib/systemd/systemd" ]
}

# For uml.sh: the kernel starts it, and it goes on with a program from a folder of the real machine.
first_program() {
    printf '%s\n' '#!/bin/sh' 'mkdir -p /mnt/share' 'mount -t hostfs -o "$test_share" none /mnt/share && exec /mnt/share/init'
}

broker_layer() {
    need_program apt-get apt
    mkdir -p "$half.deb" "$half" && (
        cd "$half.deb"
        apt-get -q download dbus-broker || { apt-get -q update; apt-get -q download dbus-broker; }
    ) && dpkg-deb -x "$half.deb"/dbus-broker_*.deb "$half"
    local status=$?
    rm -rf "$half.deb"
    [ $status = 0 ] || return 1
    # nothing but the program and its units: the machine's own configuration stays
    rm -rf "$half/etc" "$half/usr/share"
    if [ -d "$half/lib" ]; then mkdir -p "$half/usr/lib"; cp -a "$half/lib/." "$half/usr/lib/"; rm -rf "$half/lib"; fi
    local absent
    absent=$(ldd "$half"/usr/bin/dbus-broker* | awk '/not found/ {print $1}' | sort -u | tr '\n' ' ')
    [ -z "$absent" ] || { say "dbus-broker needs libraries this machine lacks: $absent"; return 1; }
}

image() { # ROOT
    need_program mke2fs e2fsprogs
    truncate -s 3G "$half" && mke2fs -q -t ext4 -m 0 -E lazy_itable_init=1 -d "$1" "$half"
}

make_it() {
    case $name in
    dbus-broker) broker_layer ;;
    *.ext4) image "$root" ;;
    *) debian_root "$name" ;;
    esac
}

say "making $name (once; it is kept in $made)"
started=$SECONDS
for attempt in 1 2; do
    remove_half
    if make_it >"$log" 2>&1 9>&-; then
        rm -rf --one-file-system "$made"
        mv "$half" "$made"
        echo "$version" >"$stamp"
        say "made $name in $((SECONDS - started)) s"
        echo "$made"
        exit 0
    fi
    [ $attempt = 1 ] && { say "making $name failed, trying once more"; sleep 3; }
done
tail -n 20 "$log" >&2
say "could not make the root '$name': see the lines above. Is the Debian mirror reachable (STRATAVORE_TEST_MIRROR names another one)?"
exit 1
