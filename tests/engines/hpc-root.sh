#!/bin/sh
# As root, in a mount namespace: mounts image files as an administrator's setuid helper does, then runs hpc.sh as a user.
set -eu
. "$(dirname "$0")/common.sh"
mkdir -p "$D/tree/d/sub" "$D/tree/many" "$D/squashfs" "$D/erofs"
echo low >"$D/tree/f"
echo deep >"$D/tree/d/sub/f"
for number in $(seq 300); do echo "$number" >"$D/tree/many/$number"; done
chown -R 4711:4711 "$D/tree"
mksquashfs "$D/tree" "$D/image.sqsh" -quiet -no-progress >/dev/null
mkfs.erofs -x-1 "$D/image.erofs" "$D/tree" >/dev/null 2>&1
mount -o loop,ro "$D/image.sqsh" "$D/squashfs"
mount -o loop,ro "$D/image.erofs" "$D/erofs"
MOUNTS="$D/squashfs $D/erofs" sh "$here/rootless.sh" "$here/hpc.sh"
umount "$D/squashfs" "$D/erofs"
