# Shared by the scripts here. Each gets a scratch directory in $D and the program under test in $ACETATE; tests/tests/e2e
# runs them, and so can anybody: D=$(mktemp -d) ACETATE=/usr/bin/acetate sh tests/engines/containerd.sh

here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin:/sbin
export PATH

# is WHAT GOT EXPECTED
is() {
    [ "$2" = "$3" ] || {
        printf '%s: got:\n%s\nexpected:\n%s\n' "$1" "$2" "$3" >&2
        exit 1
    }
}

# eventually WHAT COMMAND...: waits until it succeeds.
eventually() {
    what=$1
    shift
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || {
            echo "$what: not within a minute" >&2
            exit 1
        }
        sleep 0.2
    done
}

# Makes $1, the archive of a root tree: busybox, two users, and some files to change.
root_tar() {
    mkdir -p "$D/tree/bin" "$D/tree/etc" "$D/tree/data/l7" "$D/tree/tmp" "$D/tree/proc" "$D/tree/sys" "$D/tree/dev"
    cp "$(command -v busybox)" "$D/tree/bin/busybox"
    for applet in sh ls cat rm mkdir mv ln mkfifo chown chmod stat id sleep echo test mount grep head wc touch find; do
        ln -sf busybox "$D/tree/bin/$applet"
    done
    printf 'root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n' >"$D/tree/etc/passwd"
    printf 'root:x:0:\nuser:x:1000:\n' >"$D/tree/etc/group"
    echo a >"$D/tree/data/l7/a"
    echo b >"$D/tree/data/l7/b"
    echo low >"$D/tree/data/f"
    chmod 1777 "$D/tree/tmp"
    tar -C "$D/tree" --owner=0 --group=0 -cf "$1" .
    rm -rf "$D/tree"
}
