#!/bin/sh
# Installs, removes and purges the package on a copy of this system that is thrown away: `cargo xtask deb --check`.
# Runs as root in a mount namespace of its own; the arguments are the package and an empty folder.
set -eu
package=$1 folder=$2

mount -t tmpfs tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
for part in proc sys dev; do
    mount --rbind "/$part" "$folder/root/$part"
done
cp "$package" "$folder/root/observer.deb"

chroot "$folder/root" /bin/sh -eu -c '
fail() { echo "deb: $*" >&2; exit 1; }
dpkg --install /observer.deb
case $(dpkg-query --show --showformat="\${db:Status-Abbrev}" observer) in ii*) ;; *) fail "it is not installed" ;; esac
dpkg-query --show --showformat="\${Conffiles}" observer | grep --quiet /etc/observer/observer.toml || fail "no conffile"

# Nothing is switched on, and nothing that is installed captures content.
test ! -e /etc/systemd/system/multi-user.target.wants/observer.service || fail "the service is switched on"
observer config check /etc/observer/observer.toml | grep --quiet "^capture_content = false" || fail "it captures content"
observer check
if command -v systemd-analyze >/dev/null; then
    systemd-analyze verify /usr/lib/systemd/system/observer.service
fi

# What the administrator has changed outlives removal, but not purge.
echo "# mine" >>/etc/observer/observer.toml
dpkg --remove observer
test ! -e /usr/bin/observer || fail "the program is still there"
dpkg --install /observer.deb
tail -n 1 /etc/observer/observer.toml | grep --quiet "# mine" || fail "the configuration is lost"
mkdir -p /var/lib/private/observer
dpkg --purge observer
for path in /etc/observer /usr/share/doc/observer /var/lib/private/observer; do
    test ! -e "$path" || fail "$path is still there"
done
'
echo "the package installs, runs, and leaves nothing"
