#!/bin/bash
# Makes a Debian root ready to boot as a test host: nothing that is enabled on it starts, only what a host needs.
#   furnish.sh ROOT NAME dbus-daemon|dbus-broker [UNIT TO START…]
# Run before every boot. What a host keeps on its disk (enabled units, users) is set up the first time only.
set -eu
r=${1%/} name=$2 bus=$3
shift 3

if [ ! -e "$r/etc/stratavore-test-host" ]; then
    # Nothing enabled on the root comes up: no unit links, no mounts, no encrypted disks.
    rm -rf "$r/etc/systemd/system" "$r/etc/systemd/user"
    mkdir -p "$r/etc/systemd/system" "$r/etc/systemd/user" "$r/etc/systemd/journald.conf.d"
    : >"$r/etc/fstab"
    : >"$r/etc/crypttab"
    # Slow, and of no use here; or in need of hardware, a network or a kernel of one's own.
    for unit in systemd-modules-load systemd-timesyncd systemd-networkd systemd-resolved systemd-hwdb-update ldconfig \
        systemd-udevd systemd-udev-trigger systemd-firstboot systemd-pcrphase systemd-pcrphase-sysinit systemd-binfmt \
        apparmor modprobe@configfs modprobe@dm_mod modprobe@drm modprobe@efi_pstore modprobe@fuse modprobe@loop; do
        ln -s /dev/null "$r/etc/systemd/system/$unit.service"
    done
    for unit in sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount proc-sys-fs-binfmt_misc.automount \
        dev-mqueue.mount systemd-tmpfiles-clean.timer \
        systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd-varlink.socket; do
        ln -s /dev/null "$r/etc/systemd/system/$unit"
    done
    # Accounts and folders of what is laid over the root are made at every boot, without asking whether /usr is new.
    mkdir -p "$r/etc/systemd/system/systemd-sysusers.service.d"
    printf '[Unit]\nConditionNeedsUpdate=\n' >"$r/etc/systemd/system/systemd-sysusers.service.d/always.conf"
    rm -f "$r/etc/.updated" "$r/var/.updated" # so that the message catalog is made anew, too

    # The journal is on the disk and outlives a boot.
    printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\n' >"$r/etc/systemd/journald.conf.d/test-host.conf"
    rm -rf "$r/var/log/journal"
    mkdir -p "$r/var/log/journal"

    # Ordinary users alice and bob; alice is in the group audio.
    grep -q '^audio:' "$r/etc/group" || echo 'audio:x:29:' >>"$r/etc/group"
    for user in alice:2001 bob:2002; do
        id=${user#*:} user=${user%:*}
        for file in passwd group shadow gshadow; do
            if [ -e "$r/etc/$file" ]; then sed -i "/^$user:/d" "$r/etc/$file"; fi
        done
        echo "$user:x:$id:$id:Test user $user:/home/$user:/bin/bash" >>"$r/etc/passwd"
        echo "$user:x:$id:" >>"$r/etc/group"
        echo "$user:*:19000:0:99999:7:::" >>"$r/etc/shadow"
        if [ -e "$r/etc/gshadow" ]; then echo "$user:!::" >>"$r/etc/gshadow"; fi
        mkdir -p "$r/home/$user"
        chown "$id:$id" "$r/home/$user"
        chmod 700 "$r/home/$user"
    done
    sed -i -E '/^audio:/ { s/:$/:alice/; t; /[:,]alice(,|$)/! s/$/,alice/ }' "$r/etc/group"
    if [ -e "$r/etc/gshadow" ]; then sed -i -E '/^audio:/ { s/:$/:alice/; t; /[:,]alice(,|$)/! s/$/,alice/ }' "$r/etc/gshadow"; fi
    echo "This root belongs to a test host." >"$r/etc/stratavore-test-host"
fi

rm -f "$r/etc/hostname" "$r/etc/hosts" "$r/var/lib/dbus/machine-id"
echo "$name" >"$r/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s\n::1\tlocalhost ip6-localhost\n' "$name" >"$r/etc/hosts"
mkdir -p "$r/var/lib/dbus"
ln -s /etc/machine-id "$r/var/lib/dbus/machine-id"

units=$r/etc/systemd
case $bus in
dbus-daemon) rm -f "$units/system/dbus.service" "$units/user/dbus.service"; running=dbus.service ;;
dbus-broker)
    [ -e "$r/usr/lib/systemd/system/dbus-broker.service" ] || { echo "furnish: this root has no dbus-broker" >&2; exit 1; }
    ln -sf /usr/lib/systemd/system/dbus-broker.service "$units/system/dbus.service"
    [ ! -e "$r/usr/lib/systemd/user/dbus-broker.service" ] ||
        ln -sf /usr/lib/systemd/user/dbus-broker.service "$units/user/dbus.service"
    running=dbus-broker.service
    ;;
*) echo "furnish: no such bus: $bus (dbus-daemon or dbus-broker)" >&2; exit 2 ;;
esac

wants="$running systemd-logind.service systemd-user-sessions.service polkit.service $*"
cat >"$units/system/host.target" <<EOT
[Unit]
Description=Test host
Requires=basic.target dbus.socket systemd-journald.service
Wants=$wants
After=basic.target dbus.socket $wants
AllowIsolate=yes
EOT
