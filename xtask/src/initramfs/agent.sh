#!/bin/busybox sh
# The guest agent of Plinth's default guest: does what the hypervisor's monitor asks for by a port of the virtio console.
# docs/src/guest-agent.md tells what is said there. It sleeps in `read` until something is asked, and ends when the port goes.

name=org.plinth.agent.0

find_port() {
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat "$port/name" 2>/dev/null)" = "$name" ] && echo "/dev/${port##*/}"
    done
}

# A driver hears of its ports one after the other.
port=$(find_port)
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -z "$port" ] || break
    sleep 1
    port=$(find_port)
done
[ -c "$port" ] || exit 1
exec 3<>"$port" || exit 1

answer() {
    printf '{"id":%s,%s}\n' "$id" "$1" >&3
}

# What may stand between quotes.
text() {
    tr -cd 'A-Za-z0-9 ._:/+~-' | cut -c 1-100
}

info() {
    read -r up _ </proc/uptime
    printf '"kernel":"%s","uptime":%s,' "$(uname -sr | text)" "${up%%.*}"
    awk '/^MemTotal:/ { printf "\"memory\":%.0f,", $2 * 1024 }
        /^MemAvailable:/ { printf "\"available\":%.0f,", $2 * 1024 }' /proc/meminfo
    ip -o address show scope global | text_lines |
        awk 'BEGIN { printf "\"addresses\":[" }
            $3 ~ /^inet/ && n < 8 { printf "%s\"%s\"", n++ ? "," : "", substr($4, 1, 50) }
            END { printf "]" }'
}

text_lines() {
    tr -cd 'A-Za-z0-9 ._:/+~\n-'
}

# Whoever asked has the answer by then.
leave() {
    sync
    umount -a -r 2>/dev/null
    "$@"
}

while IFS= read -r line <&3; do
    rest=${line#'{"id":'}
    id=${rest%%[!0-9]*}
    what=${rest#"$id"',"do":"'}
    what=${what%'"}'}
    [ "$line" = "{\"id\":$id,\"do\":\"$what\"}" ] && [ "${#line}" -le 1024 ] || what=
    case "$what" in
    ping) answer '"ok":{"version":1}' ;;
    info) answer "\"ok\":{$(info)}" ;;
    sync) sync && answer '"ok":{}' || answer '"error":"not all could be written"' ;;
    shutdown) answer '"ok":{}' && leave poweroff -f ;;
    reboot) answer '"ok":{}' && leave reboot -f ;;
    '')
        : "${id:=null}"
        answer '"error":"this is no request"'
        ;;
    *)
        : "${id:=null}"
        answer '"error":"there is no such command"'
        ;;
    esac
done
