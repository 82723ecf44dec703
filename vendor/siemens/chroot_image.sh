#!/bin/sh
# Make FIRE's chroot image from a container's files:
#
#     docker create --name mnet-fire mnet && docker export mnet-fire > mnet.tar
#     sudo vendor/siemens/chroot_image.sh mnet.tar mnet.img [FREE_MB]
#
# Nothing is mounted: mke2fs (1.43 or later) fills the image. Root keeps owners; fakeroot does too.
set -eu
tar_file=$1 image=$2 free_mb=${3:-200}
here=$(dirname "$0")
[ ! -e "$image" ] || { echo "$image exists already" >&2; exit 1; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
tar -xf "$tar_file" -C "$root"
mkdir -p "$root/tmp/share" "$root/opt/mnet" "$root/proc" "$root/dev"
chmod 1777 "$root/tmp"
install -m 755 "$here/start_mnet.sh" "$root/opt/mnet/start_mnet.sh"

# Blocks of 4 KiB as files take them, 10 % for inodes and journal, and what is to stay free.
used_mb=$(du -sm --apparent-size "$root" | cut -f1)
blocks_mb=$(du -sm "$root" | cut -f1)
[ "$used_mb" -gt "$blocks_mb" ] || used_mb=$blocks_mb
mke2fs -q -t ext3 -m 0 -d "$root" "$image" "$((used_mb * 110 / 100 + 64 + free_mb))M"
echo "$image: $((used_mb)) MB of files, $free_mb MB or more free"
