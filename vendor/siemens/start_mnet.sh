#!/bin/sh
# Start the host inside FIRE's chroot. FIRE calls it with the path of a log file.
# Temporary files and records go to the share, where they cannot fill the image.
export TMPDIR=/tmp/share HOME=/tmp/share
mkdir -p /tmp/share/saved_data
mnet serve --address 0.0.0.0 --port 9002 \
    --records /tmp/share/saved_data --noise /tmp/share/noise \
    >"${1:-/dev/null}" 2>&1 &
