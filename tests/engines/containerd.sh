#!/bin/sh
# containerd with `acetate snapshotter`: import, run, many at once, everything killed and started again, removal.
# $DRIVER and $WRAPPER: snapshotter.sh.
set -eu
. "$(dirname "$0")/common.sh"
cd "$D"
: "${DRIVER:=kernel}" "${MANY:=50}"
export ACETATE_STORE="$D/store"
# runc knows containers by namespace and name, whichever containerd they are of.
export CONTAINERD_NAMESPACE="acetate-$$"
cat >config.toml <<F
version = 2
root = "$D/root"
state = "$D/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "$D/containerd.sock"
[proxy_plugins.acetate]
type = "snapshot"
address = "$D/snapshotter.sock"
F
. "$here/snapshotter.sh"

# An image of three layers, made by this program and taken by containerd as any other.
root_tar base.tar
"$ACETATE" image import --name base base.tar >/dev/null 2>&1
"$ACETATE" workspace create w --image base
"$ACETATE" workspace run w -- sh -c 'rm -rf /data/l7; mkdir /data/l7; rm /etc/group'
"$ACETATE" workspace commit w two >/dev/null
"$ACETATE" workspace run w -- sh -c 'echo x >> /data/f; chown 1000:1000 /data/f'
"$ACETATE" workspace commit w three >/dev/null
"$ACETATE" image export --format docker-archive three three.tar >/dev/null 2>&1
"$ACETATE" workspace remove w

start_snapshotter
start_containerd
snapshots() { ct snapshots --snapshotter acetate ls | tail -n +2 | grep -c "$1" || true; }
import() { ct image import --snapshotter acetate three.tar >/dev/null; }
image() { ct image ls -q | head -n 1; }
look='ls -A /data/l7; cat /data/f; test -e /etc/group || echo gone'

# On a busy machine ctr may lose what a container says that ends at once: then it runs again.
once() {
    for try in 1 2 3; do
        said=$(ct run --rm --snapshotter acetate "$(image)" "once-$try" sh -c "$look")
        [ -z "$said" ] || break
    done
    echo "$said"
}
expected="low
x
gone"

import
is "layers" "$(snapshots Committed)" 3
is "unpacked" "$(uppers)" 3
is run "$(once)" "$expected"
case $DRIVER in kernel) type=overlay ;; *) type=fuse.acetate ;; esac
is type "$(ct run --rm --snapshotter acetate "$(image)" once sh -c "mount | grep -c ' on / type $type '")" 1
is "usage" "$(ct snapshots --snapshotter acetate usage | tail -n +2 | grep -vc ' 0 B ')" 3

# Many at once; containerd and the snapshotter are killed, and start again; the containers go on.
starting=
for number in $(seq "$MANY"); do
    ct run -d --snapshotter acetate "$(image)" "c$number" sh -c "echo $number > /n; exec sleep 1000" &
    starting="$starting $!"
done
for pid in $starting; do wait "$pid"; done
is "running" "$(ct task ls | grep -c RUNNING)" "$MANY"
kill -9 $containerd $snapshotter
wait $containerd $snapshotter || true
: >snapshotter.log
start_snapshotter
start_containerd
is "still running" "$(ct task ls | grep -c RUNNING)" "$MANY"
for number in 1 $((MANY / 2)) "$MANY"; do
    is "container $number" "$(ct task exec --exec-id e "c$number" sh -c "cat /n; $look")" "$number
$expected"
done
"$ACETATE" image gc >/dev/null 2>&1
is "after gc" "$(ct task exec --exec-id f c1 cat /n)" 1
kill -9 $snapshotter
wait $snapshotter || true
: >snapshotter.log
is "without a snapshotter" "$(ct task exec --exec-id g c1 cat /n)" 1
start_snapshotter
eventually "snapshotter" sh -c "ctr -a $D/containerd.sock snapshots --snapshotter acetate prepare probe &&
    ctr -a $D/containerd.sock snapshots --snapshotter acetate rm probe"
for number in $(seq "$MANY"); do
    ct task kill -s 9 "c$number"
done
for number in $(seq "$MANY"); do
    eventually "end of c$number" ct task rm "c$number"
    ct container rm "c$number"
done
ct image rm --sync "$(image)" >/dev/null
is "snapshots at the end" "$(snapshots .)" 0
is "writable layers at the end" "$(uppers)" 0
is "mounts at the end" "$(grep -c "$D/state" /proc/self/mountinfo || true)" 0
