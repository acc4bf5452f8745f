#!/bin/sh
# A pod by the container runtime interface of containerd, as a kubelet asks for it, with `acetate snapshotter`.
# $DRIVER: snapshotter.sh.
set -eu
. "$(dirname "$0")/common.sh"
cd "$D"
: "${DRIVER:=kernel}"
export ACETATE_STORE="$D/store" CONTAINERD_NAMESPACE=k8s.io
mkdir cni
cat >config.toml <<F
version = 2
root = "$D/root"
state = "$D/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "$D/containerd.sock"
[proxy_plugins.acetate]
type = "snapshot"
address = "$D/snapshotter.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/pause:1"
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stats_collect_period = 1
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "acetate"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "$D/cni"
F
. "$here/snapshotter.sh"

# cri SERVICE METHOD REQUEST RESPONSE: the message on standard input, as text, sent; the answer as text. A message of gRPC
# has a byte for its compression and four for its length before it.
cri() {
    protoc --proto_path="$here" --encode="runtime.v1.$3" cri.proto >request.bin
    length=$(wc -c <request.bin)
    printf '\0\0\0%b%b' "\\0$(printf %o $((length / 256)))" "\\0$(printf %o $((length % 256)))" | cat - request.bin >framed.bin
    curl -sS --http2-prior-knowledge --unix-socket "$D/containerd.sock" -H 'content-type: application/grpc' -H 'te: trailers' \
        -D headers --data-binary @framed.bin -o answer.bin "http://cri/runtime.v1.$1/$2"
    grep -qi '^grpc-status: 0' headers || {
        echo "$2: $(grep -i '^grpc-message' headers)" >&2
        return 1
    }
    tail -c +6 answer.bin | protoc --proto_path="$here" --decode="runtime.v1.$4" cri.proto
}
# The first text of a field in an answer.
field() { sed -n "s/^ *$1: \"\{0,1\}\([^\"]*\)\"\{0,1\}$/\1/p" | head -n 1; }

# An image that waits, as Kubernetes' own does, is also the one that is worked in.
root_tar layer.tar
digest=$(sha256sum layer.tar | cut -d' ' -f1)
cat >config.json <<F
{"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh", "-c", "trap exit TERM; while :; do sleep 0.1; done"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$digest"]}}
F
echo '[{"Config": "config.json", "RepoTags": ["docker.io/library/pause:1"], "Layers": ["layer.tar"]}]' >manifest.json
tar -cf pause.tar manifest.json config.json layer.tar

start_snapshotter
start_containerd
ct image import --snapshotter acetate pause.tar >/dev/null
known() {
    echo 'image { image: "docker.io/library/pause:1" }' | cri ImageService ImageStatus ImageStatusRequest ImageStatusResponse |
        grep -q repo_tags
}
eventually "the image is known" known

# The network is the host's, so that no plugin is needed.
pod='metadata { name: "p" uid: "u" namespace: "default" }
     linux { security_context { namespace_options { network: NODE } } }'
sandbox=$(echo "config { $pod }" | cri RuntimeService RunPodSandbox RunPodSandboxRequest PodSandbox | field pod_sandbox_id)
container=$(echo "pod_sandbox_id: \"$sandbox\" sandbox_config { $pod }
    config { metadata { name: \"c\" } image { image: \"docker.io/library/pause:1\" }
             linux { security_context { namespace_options { network: NODE } } } }" |
    cri RuntimeService CreateContainer CreateContainerRequest Container | field container_id)
echo "container_id: \"$container\"" | cri RuntimeService StartContainer Container Nothing
case $DRIVER in kernel) type=overlay ;; *) type=fuse.acetate ;; esac
look="rm -r /data/l7; mkdir /data/l7; ls -A /data/l7; cat /data/f; head -c 100000 /bin/busybox >/new; mount | grep -c ' on / type $type '"
said=$(echo "container_id: \"$container\" timeout: 60 cmd: [\"/bin/sh\", \"-c\", \"$look\"]" |
    cri RuntimeService ExecSync ExecSyncRequest ExecSyncResponse)
is "what the container says" "$(printf '%s\n' "$said" | field stdout)" 'low\n1\n'
# What the kubelet collects garbage by.
written() {
    used=$(echo "container_id: \"$container\"" | cri RuntimeService ContainerStats Container ContainerStatsResponse |
        grep -A1 used_bytes | field value)
    [ "${used:-0}" -ge 100000 ]
}
eventually "the size of the writable layer" written
echo | cri ImageService ImageFsInfo Nothing ImageFsInfoResponse | grep -q mountpoint

echo "pod_sandbox_id: \"$sandbox\"" | cri RuntimeService StopPodSandbox PodSandbox Nothing
echo "pod_sandbox_id: \"$sandbox\"" | cri RuntimeService RemovePodSandbox PodSandbox Nothing
ct image rm --sync $(ct image ls -q) >/dev/null
eventually "no snapshot is left" sh -c "[ \$(ctr -a $D/containerd.sock snapshots --snapshotter acetate ls | wc -l) -eq 1 ]"
is "writable layers at the end" "$(uppers)" 0
is "mounts at the end" "$(grep -c "$D/state" /proc/self/mountinfo || true)" 0
