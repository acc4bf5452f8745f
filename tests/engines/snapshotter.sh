# containerd and `acetate snapshotter`, started with $D/config.toml and ended with the script; shared by the scripts that need
# both. $DRIVER is kernel or fuse; the snapshotter is run by the command $WRAPPER, if there is one.

snapshotter= containerd=
start_snapshotter() {
    ${WRAPPER:-} "$ACETATE" snapshotter --socket "$D/snapshotter.sock" --driver "$DRIVER" >>"$D/snapshotter.log" 2>&1 &
    snapshotter=$!
    eventually snapshotter grep -q "a snapshotter of" "$D/snapshotter.log"
}
start_containerd() {
    containerd -c "$D/config.toml" >>"$D/containerd.log" 2>&1 &
    containerd=$!
    # A call that reaches the snapshotter.
    eventually containerd sh -c "ctr -a $D/containerd.sock snapshots --snapshotter acetate prepare probe &&
        ctr -a $D/containerd.sock snapshots --snapshotter acetate rm probe"
}
ct() { ctr -a "$D/containerd.sock" "$@"; }
end() {
    status=$?
    if [ $status -ne 0 ]; then tail -n 20 "$D/snapshotter.log" "$D/containerd.log" >&2; fi
    for id in $(ct task ls -q 2>/dev/null); do ct task kill -s 9 "$id" || true; done
    for pid in $snapshotter $containerd; do kill "$pid" || true; done
    wait
    rmdir "/run/containerd/runc/$CONTAINERD_NAMESPACE" 2>/dev/null || true
    exit $status
}
trap end EXIT
uppers() { find "$D/store/uppers" -mindepth 1 -maxdepth 1 | wc -l; }
