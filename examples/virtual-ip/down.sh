#!/bin/sh
# on_demote: this machine gives the address up. It also runs when `tanist run` starts again after it was killed.
: "${VIP:=192.168.10.50/24}"     # as in up.sh
: "${VIP_DEVICE:=eth0}"
set -u

# That it isn't there is no failure: the machine may have been restarted, or up.sh was stopped before its time.
if ip -o address show dev "$VIP_DEVICE" | grep -qF " $VIP "; then
    ip address del "$VIP" dev "$VIP_DEVICE" || exit 1
fi
echo "$TANIST_MEMBER has given $VIP up (term $TANIST_TERM: $TANIST_REASON)"
