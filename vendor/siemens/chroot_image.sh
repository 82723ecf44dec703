#!/bin/sh
# Make FIRE's chroot image from the files of a container:
#
#     docker create --name mnet-fire mnet && docker export mnet-fire > mnet.tar
#     sudo vendor/siemens/chroot_image.sh mnet.tar mnet.img [FREE_MB]
#
# Nothing is mounted: mke2fs fills the image. `fakeroot` instead of `sudo` does too.
set -eu
tar_file=$1 image=$2 free_mb=${3:-200}
here=$(dirname "$0")
[ ! -e "$image" ] || { echo "$image exists already" >&2; exit 1; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
tar -xf "$tar_file" -C "$root"
mkdir -p "$root/dev" "$root/proc" "$root/tmp/share" "$root/opt/mnet"
chmod 1777 "$root/tmp"
install -m 755 "$here/start_mnet.sh" "$root/opt/mnet/start_mnet.sh"
# What torch needs where nobody mounts /dev.
for device in "null 3" "zero 5" "random 8" "urandom 9"; do
    [ -e "$root/dev/${device% *}" ] || mknod -m 666 "$root/dev/${device% *}" c 1 "${device#* }"
done

# Files in blocks of 4 KiB, 10 % for inodes, 64 MB for the journal, and what shall stay free.
used_mb=$(du -sm "$root" | cut -f1)
mke2fs -q -t ext3 -b 4096 -m 0 -d "$root" "$image" "$((used_mb * 110 / 100 + 64 + free_mb))M"
echo "$image: $used_mb MB of files, at least $free_mb MB free"
