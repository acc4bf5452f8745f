#!/bin/sh
# Runs the script $1 as a user with subordinate ids, in a mount namespace in which /dev/fuse is open to all and /etc has
# that user. As root: unshare -m --propagation private sh rootless.sh SCRIPT
set -eu
mkdir -p "$D/etc-upper" "$D/etc-work" "$D/home/work" "$D/run"
mknod "$D/fuse" c 10 229
chmod 666 "$D/fuse"
mount --bind "$D/fuse" /dev/fuse
mount -t overlay -o "lowerdir=/etc,upperdir=$D/etc-upper,workdir=$D/etc-work" overlay /etc
echo "acetate-test:x:4711:4711::$D/home:/bin/sh" >>/etc/passwd
echo 'acetate-test:x:4711:' >>/etc/group
echo 'acetate-test:4000000:65536' >>/etc/subuid
echo 'acetate-test:4000000:65536' >>/etc/subgid
chown -R 4711:4711 "$D/home" "$D/run"
chmod 700 "$D/run"
status=0
setpriv --reuid 4711 --regid 4711 --clear-groups env -i PATH="$PATH" HOME="$D/home" XDG_RUNTIME_DIR="$D/run" \
    ACETATE="$ACETATE" PROGRAM="${PROGRAM:-$ACETATE}" CONTAINERS_CONF="$CONTAINERS_CONF" D="$D/home/work" KEEP_ID=yes \
    SHARED="${SHARED:-}" MOUNTS="${MOUNTS:-}" sh "$1" || status=$?
# podman keeps a process with the namespaces for its next call.
pause=$(cat "$D/run/libpod/tmp/pause.pid" 2>/dev/null || true)
if [ -n "$pause" ]; then kill "$pause"; fi
rm -f /dev/shm/libpod_rootless_lock_4711
exit $status
