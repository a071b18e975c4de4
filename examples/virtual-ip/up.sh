#!/bin/sh
# on_promote: this machine takes the address that clients know.
#
# Needs CAP_NET_ADMIN (root, or in the systemd unit: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW), `ip` (iproute2) and
# `arping` (iputils: package iputils-arping on Debian, iputils on Fedora).
# Settings: edit here, or set them in the environment of `tanist run`.
: "${VIP:=192.168.10.50/24}"     # the address, with the length of its prefix
: "${VIP_DEVICE:=eth0}"          # the network card
set -u

# Again after a failure or a restart: `replace` isn't an error when the address is there already.
ip address replace "$VIP" dev "$VIP_DEVICE" || exit 1

# Tell everybody on the network where the address is now: neighbours and switches keep the old master's hardware address for
# minutes otherwise. Three times, because one may be lost. Without an answer to wait for, arping's exit code says little.
if command -v arping >/dev/null 2>&1; then
    arping -q -U -c 3 -w 3 -I "$VIP_DEVICE" "${VIP%/*}" ||
        echo "arping failed: neighbours find the address only when their tables are renewed"
else
    echo "no arping here: neighbours find the address only when their tables are renewed"
fi
echo "$TANIST_MEMBER has $VIP on $VIP_DEVICE (term $TANIST_TERM: $TANIST_REASON)"
