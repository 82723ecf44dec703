#!/bin/sh
# Start the host inside FIRE's chroot. FIRE calls it with the path of a log file.
# Temporary files and records go to the share, where they cannot fill the image.
share=${MNET_SHARE:-/tmp/share}
export TMPDIR="$share" HOME="$share"
mkdir -p "$share/saved_data"
# The network between FIRE and the chroot is the scanner's own.
mnet serve --address 0.0.0.0 --address-is-guarded --port 9002 \
    --records "$share/saved_data" --noise "$share/noise" \
    >"${1:-/dev/null}" 2>&1 &
