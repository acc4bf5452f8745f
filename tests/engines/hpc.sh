#!/bin/sh
# As Apptainer and clusters use overlays: no privilege, lower layers in image files (mounted squashfs and erofs, squashfuse),
# the upper layer in memory, with and without extended attributes. $MOUNTS names lower directories that are mounted already.
set -eu
. "$(dirname "$0")/common.sh"
cd "$D"
mkdir -p tree/d/sub tree/many m s
echo low >tree/f
echo deep >tree/d/sub/f
for number in $(seq 300); do echo "$number" >"tree/many/$number"; done
mksquashfs tree image.sqsh -quiet -no-progress >/dev/null
squashfuse image.sqsh s
memory=$(mktemp -d /dev/shm/acetate.XXXXXX)
end() {
    status=$?
    "$ACETATE" umount m 2>/dev/null || true
    fusermount3 -u s || true
    rm -rf "$memory"
    exit $status
}
trap end EXIT

for lower in "$D/s" ${MOUNTS:-}; do
    mkdir "$memory/u" "$memory/w"
    mount_it() { "$ACETATE" mount --lower "$lower" --upper "$memory/u" --work "$memory/w" m 2>>said; }
    mount_it
    is "$lower: file" "$(cat m/f m/d/sub/f)" "low
deep"
    echo x >>m/f
    rm -r m/d
    mkdir m/d
    mv m/many/1 m/one
    chmod 600 m/many/2
    rm m/many/3
    check() {
        is "$lower: $1" "$(cat m/f m/one; ls -A m/d; stat -c %a m/many/2; find m/many -type f | wc -l)" "low
x
1
600
298"
    }
    check changed
    "$ACETATE" umount m
    mount_it
    check "mounted again"
    "$ACETATE" umount m
    chmod -R u+rwx "$memory"
    rm -rf "$memory/u" "$memory/w"
done
