#!/bin/sh
# Docker's driver fuse-overlayfs finds Acetate on PATH under that name: run, diff, commit, build, save, push.
set -eu
. "$(dirname "$0")/common.sh"
cd "$D"
mkdir -p bin
ln -sf "$ACETATE" bin/fuse-overlayfs
PATH="$D/bin:$PATH" dockerd --data-root "$D/root" --exec-root "$D/exec" -p "$D/pid" -H "unix://$D/sock" \
    --iptables=false --ip6tables=false --bridge=none --storage-driver=fuse-overlayfs >"$D/log" 2>&1 &
daemon=$!
end() {
    status=$?
    if [ $status -ne 0 ]; then grep -v level=info "$D/log" | tail -n 10 >&2; fi
    kill $daemon
    wait $daemon || true
    exit $status
}
trap end EXIT
# Debian's client builds with BuildKit by itself; newer ones need a plugin for it.
docker=/usr/bin/docker
[ -x $docker ] || docker=docker
dk() { $docker -H "unix://$D/sock" "$@"; }
run() { dk run --rm --network none "$@"; }
eventually dockerd dk info
is driver "$(dk info --format '{{.Driver}}' 2>/dev/null)" fuse-overlayfs

root_tar base.tar
dk import base.tar base >/dev/null
is type "$(run base sh -c 'mount | grep -c " on / type fuse.acetate "')" 1
dk run --name c1 --network none base sh -c 'rm -rf /data/l7; mkdir /data/l7; echo x >> /data/f; rm /etc/group'
is diff "$(dk diff c1 | sort)" "C /data
C /data/f
C /data/l7
C /etc
D /data/l7/a
D /data/l7/b
D /etc/group"
mkdir context
dk commit c1 two >/dev/null
dk rm c1 >/dev/null
look='ls -A /data/l7; cat /data/f; test -e /etc/group || echo gone'
is commit "$(run two sh -c "$look")" "low
x
gone"
printf 'FROM two\nRUN rm /data/f && echo built > /built\nRUN mv /data/l7 /data/l8\n' >context/Dockerfile
for buildkit in 0 1; do
    DOCKER_BUILDKIT=$buildkit dk build --network none -t "built$buildkit" context >"$D/build" 2>&1 || {
        cat "$D/build" >&2
        exit 1
    }
    is "build $buildkit" "$(run "built$buildkit" sh -c 'ls /data; cat /built')" "l8
built"
done
if [ -n "${REGISTRY:-}" ]; then
    dk tag built1 "$REGISTRY/built"
    dk push -q "$REGISTRY/built" >/dev/null
    dk rmi -f "$REGISTRY/built" built0 built1 two >/dev/null
    dk pull -q "$REGISTRY/built" >/dev/null
    is push "$(run "$REGISTRY/built" sh -c 'ls /data; cat /built')" "l8
built"
fi
is "mounts" "$(grep -c "$D.*fuse.acetate" /proc/self/mountinfo || true)" 0
