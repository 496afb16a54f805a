#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# After an installation or upgrade, by dpkg or rpm: the user and the folders of
# flexnbd@.service. Where systemd is not there, neither is the unit, and flexnbd needs
# nothing of this. Running servers stay as they are, since clients use their disks:
# `systemctl restart` whenever it suits.
set -e

if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers flexnbd.conf
fi
if command -v systemd-tmpfiles >/dev/null; then
	systemd-tmpfiles --create flexnbd.conf
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
