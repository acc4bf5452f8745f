#!/bin/sh
# Installs Acetate from the unpacked archive that this lies in.
#
#   ./install.sh               as root: /usr/local, with the helpers of mount(8) in /usr/sbin
#   ./install.sh --user        without root: ~/.local
#   ./install.sh --uninstall   takes away what it installed; also with --user
set -eu
cd "$(dirname "$0")"
prefix=/usr/local
helpers=/usr/sbin
units=/etc/systemd/system
uninstall=no
for word; do
    case $word in
    --user) prefix=$HOME/.local helpers= units= ;;
    --uninstall) uninstall=yes ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    esac
done
if [ -n "$helpers" ] && [ "$(id -u)" -ne 0 ]; then
    echo "install.sh: not root; ./install.sh --user installs for you alone" >&2
    exit 2
fi
put() {
    if [ $uninstall = yes ]; then rm -f "$2"; else install -D -m "$3" "$1" "$2"; fi
}
put usr/bin/acetate "$prefix/bin/acetate" 755
for file in $(cd usr/share && find man bash-completion zsh fish -type f 2>/dev/null); do
    put "usr/share/$file" "$prefix/share/$file" 644
done
if [ -n "$units" ] && [ -d "$units" ]; then
    for unit in usr/lib/systemd/system/*; do
        target="$units/${unit##*/}"
        put "$unit" "$target" 644
        if [ $uninstall = no ]; then sed -i "s,/usr/bin/acetate,$prefix/bin/acetate," "$target"; fi
    done
fi
if [ -n "$helpers" ]; then
    for name in mount.acetate mount.fuse.acetate; do
        rm -f "$helpers/$name"
        if [ $uninstall = no ]; then ln -s "$prefix/bin/acetate" "$helpers/$name"; fi
    done
fi
if [ $uninstall = no ]; then "$prefix/bin/acetate" --version; fi
