#!/bin/sh
# Make an image of a fresh Debian: base.sh ROOT FILES
# FILES: what the guest takes over from the host, laid over ROOT.
set -eu
root=$1
files=$2

cp -R --no-preserve=ownership "$files/." "$root/"
chroot "$root" update-ca-certificates

# The login user of Debian's cloud images.
chroot "$root" useradd --create-home --shell /bin/bash --uid 1000 admin
echo 'admin ALL=(ALL) NOPASSWD: ALL' > "$root/etc/sudoers.d/admin"
chmod 0440 "$root"/etc/sudoers.d/*

# Every machine makes its own.
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/etc/resolv.conf"
: > "$root/etc/machine-id"

chroot "$root" systemctl --quiet enable systemd-networkd.service ssh.service
# Nothing that runs by the clock may hold apt's lock or the CPU while a play runs.
chroot "$root" systemctl --quiet mask \
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
  e2scrub_reap.service fstrim.timer console-getty.service systemd-firstboot.service
