#!/bin/busybox sh
# The first process of Plinth's default guest: brings the system up and keeps a shell on the
# console.

/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mkdir -p /dev/pts /sbin /usr/bin /usr/sbin
/bin/busybox mount -t devpts devpts /dev/pts
/bin/busybox mount -t tmpfs tmpfs /tmp
/bin/busybox mount -t tmpfs tmpfs /run
/bin/busybox --install -s

export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM="${TERM:-vt100}"
hostname plinth-guest
cd /root

# Dependencies come first in this file. Without such a device a module does nothing.
while read -r module; do
    insmod "/lib/modules/$module" 2>/dev/null
done </lib/modules/order

tty=/dev/ttyAMA0
[ -c "$tty" ] || tty=/dev/console

# No kernel message may fall into the middle of the lines that a test looks for.
dmesg -n 1
{
    echo
    echo "This is Linux $(uname -r) with $(nproc) CPUs, a guest of Plinth."
    echo "\`poweroff -f\` stops it, \`reboot -f\` starts it again."
    # Computed here: the text cannot come from a command line that was only echoed.
    echo "plinth-guest-ready $((6 * 7 * 1000 + $(nproc)))"
} >"$tty"
dmesg -n 4

case " $(cat /proc/cmdline) " in
*" plinth.test=poweroff "*) poweroff -f ;;
esac

# A session leader that opens a terminal gets it as its controlling terminal, so Ctrl-C works.
while :; do
    setsid sh -c "exec sh -l <$tty >$tty 2>&1"
done
