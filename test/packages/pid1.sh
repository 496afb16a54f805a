#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# pid1.sh ROOT: be PID 1 of new namespaces, prepare ROOT as containers are, so that systemd
# changes nothing of the machine, and become its systemd. Called by boot.sh.
set -eEuo pipefail
trap 'echo "package-test: ${0##*/}, line $LINENO: this failed: $BASH_COMMAND" >&2' ERR
root=$1

mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
# Most of the kernel's settings are the machine's, and systemd has some to make.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
# Read-only, which also tells systemd to leave devices alone.
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
# With the few nodes of debootstrap; without a mount here, systemd would mount the
# machine's. The console is the machine's, too.
mount --bind "$root/dev" "$root/dev"
ln -sf null "$root/dev/console"

# systemd ends when the job does, with the job's status.
cat >"$root/etc/systemd/system/unit-test.service" <<'END'
[Unit]
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
ExecStart=/bin/bash /packages/unit.sh
WorkingDirectory=/packages
Environment=HOME=/root LC_ALL=C.UTF-8
StandardOutput=append:/packages/log
StandardError=inherit
TimeoutStartSec=200
END
exec env -i container=flexnbd PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	chroot "$root" /lib/systemd/systemd --system --unit=unit-test.service --show-status=no
