#!/bin/sh
# podman and buildah with Acetate as mount_program: run, diff, commit, build, volumes, exec, read-only, reset.
set -eu
. "$(dirname "$0")/common.sh"
cd "$D"
: "${PROGRAM:=$ACETATE}"
store="$D/store"
mkdir -p "$D/networks"
pm() {
    podman --root "$store/root" --runroot "$store/run" --network-config-dir "$D/networks" --storage-driver overlay \
        --storage-opt overlay.mount_program="$PROGRAM" "$@" 2>"$D/err" || {
        status=$?
        cat "$D/err" >&2
        return $status
    }
}
run() { pm run --rm --network none "$@"; }

[ -e base.tar ] || root_tar base.tar
pm import -q base.tar localhost/base >/dev/null
is info "$(pm info --format '{{index .Store.GraphStatus "Native Overlay Diff"}}')" false
is type "$(run localhost/base sh -c 'mount | grep -c " on / type fuse.acetate "')" 1

# A deleted directory that was made again hides what it held: fuse-overlayfs loses that in diff and commit.
pm run --name c1 --network none localhost/base \
    sh -c 'rm -rf /data/l7; mkdir /data/l7; echo x >> /data/f; mkdir /new; echo n > /new/n; rm /etc/group; chown 1000:1000 /new'
is diff "$(pm diff c1 | sort)" "A /new
A /new/n
C /data
C /data/f
C /data/l7
C /etc
D /data/l7/a
D /data/l7/b
D /etc/group"
pm commit -q c1 localhost/two >/dev/null
pm rm c1 >/dev/null
look='ls -A /data/l7; cat /data/f; stat -c %u:%g /new; test -e /etc/group || echo gone'
is commit "$(run localhost/two sh -c "$look")" "low
x
1000:1000
gone"

# The stages of a build, each step a layer.
cat >Containerfile <<F
FROM localhost/base AS one
RUN echo built > /data/built && rm /data/l7/a && chmod 4755 /data/f
RUN mv /data/l7 /data/l8 && ln /data/f /data/g && mkfifo /data/p && chown 1000:1000 /data/l8
FROM localhost/base
COPY --from=one /data /copied
RUN rm -rf /data && mkdir /data
F
pm build -q --network none --layers -t localhost/built -f Containerfile "$D" >/dev/null
is build "$(run localhost/built sh -c 'ls /data /copied /copied/l8; stat -c %a /copied/f; stat -c %u:%g /copied/l8')" \
    "/copied:
built
f
g
l8
p

/copied/l8:
b

/data:
4755
1000:1000"

# A container that goes on, and commands in it.
pm run -d --name c2 --network none localhost/two sleep 1000 >/dev/null
is exec "$(pm exec c2 sh -c 'echo hi > /hi; cat /hi')" hi
pm cp c2:/hi hi
is cp "$(cat hi)" hi
pm rm -f -t 0 c2 >/dev/null

# Volumes: an overlay over a directory of the host's, and a named one.
mkdir -p dir
echo host >dir/h
is overlay "$(run -v "$D/dir:/v:O" localhost/base sh -c 'cat /v/h; echo x > /v/x; ls /v')" "host
h
x"
is "the directory" "$(ls dir)" h
pm volume create v >/dev/null
run -v v:/v localhost/base sh -c 'echo 1 > /v/1'
is volume "$(run -v v:/v localhost/base cat /v/1)" 1
is "read-only" "$(run --read-only localhost/base sh -c 'echo x > /x || echo no' 2>/dev/null)" no

# Twenty at once, none of which leaves a mount.
for number in $(seq 20); do
    run localhost/two sh -c "echo $number > /n; rm -rf /data; ls /data 2>/dev/null; cat /n" >"out.$number" 2>&1 &
done
wait
for number in $(seq 20); do is "container $number" "$(cat "out.$number")" "$number"; done

if [ -n "${KEEP_ID:-}" ]; then
    is keep-id "$(run --userns=keep-id localhost/base sh -c 'stat -c %u:%g /data/f; touch /tmp/t; stat -c %u:%g /tmp/t')" \
        "0:0
$(id -u):$(id -g)"
fi

# A store that was filled without a mount program goes on with one, and its images are there either way. (What podman unpacks
# for a mount program holds deletions as `.wh.` files, which the kernel's overlayfs does not read.)
if [ -n "${SHARED:-}" ]; then
    kernel() {
        podman --root "$D/shared/root" --runroot "$D/shared/run" --network-config-dir "$D/networks" --storage-driver overlay \
            "$@" 2>"$D/err" || {
            cat "$D/err" >&2
            return 1
        }
    }
    kernel import -q base.tar localhost/base >/dev/null
    kernel run --name c3 --network none localhost/base sh -c 'rm -rf /data/l7 /etc/group; mkdir /data/l7; echo k > /data/f'
    kernel commit -q c3 localhost/three >/dev/null
    kernel rm c3 >/dev/null
    store="$D/shared"
    is "images" "$(pm images -q | sort)" "$(kernel images -q | sort)"
    see='ls -A /data/l7; cat /data/f; test -e /etc/group || echo gone'
    is "of the kernel" "$(run localhost/three sh -c "$see")" "k
gone"
    pm run --name c4 --network none localhost/three sh -c 'echo ours > /data/f'
    pm commit -q c4 localhost/four >/dev/null
    pm rm c4 >/dev/null
    is "images, then" "$(kernel images -q | sort)" "$(pm images -q | sort)"
    is "by the kernel" "$(kernel run --rm --network none localhost/four sh -c "$see")" "ours
gone"
    pm rmi -f -a >/dev/null
    store="$D/store"
fi

pm rmi -f -a >/dev/null
is "mounts" "$(grep -c "$D.*fuse.acetate" /proc/self/mountinfo || true)" 0
echo y | pm system reset >/dev/null
is "after reset" "$(find "$store/root/overlay" -mindepth 1 -maxdepth 1 2>/dev/null | wc -l)" 0
