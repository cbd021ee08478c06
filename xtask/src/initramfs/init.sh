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

# Where the shell is, and the first network card, as the command line says.
tty=/dev/ttyAMA0
ip link set lo up
for word in $(cat /proc/cmdline); do
    case "$word" in
    plinth.ip=*)
        ip address add "${word#*=}" dev eth0
        ip link set eth0 up
        ;;
    plinth.tty=*) tty="/dev/${word#*=}" ;;
    plinth.gateway=*) ip route add default via "${word#*=}" ;;
    esac
done

[ -c "$tty" ] || tty=/dev/console

# The power button is on pin 3 of the PL061. This kernel is built without the driver for such keys
# (gpio_keys), so the pin's interrupts are counted: whatever comes asks for a shutdown.
presses() {
    grep gpiolib /proc/interrupts
}
for chip in /sys/class/gpio/gpiochip*; do
    [ "$(cat "$chip/label")" = 9030000.pl061 ] || continue
    pin=$(($(cat "$chip/base") + 3))
    echo "$pin" >/sys/class/gpio/export
    echo rising >"/sys/class/gpio/gpio$pin/edge" || continue
    before=$(presses)
    {
        while [ "$(presses)" = "$before" ]; do
            sleep 1
        done
        echo "The power button was pressed." >"$tty"
        sync
        umount -a -r 2>/dev/null
        poweroff -f
    } &
done

# Where there is a virtio console, it may have a port for an agent.
for device in /sys/bus/virtio/drivers/virtio_console/virtio*; do
    [ -e "$device" ] && plinth-agent </dev/null >/dev/null 2>&1 &
done

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
