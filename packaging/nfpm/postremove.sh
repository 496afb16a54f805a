#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# After a removal, or the old package's part of an upgrade. What is in the folders stays
# there: it is the operator's, or says who owns a disk. So does the user, who may own
# images.
set -e

if [ "$1" = purge ]; then # dpkg only
	for dir in /etc/flexnbd /var/lib/flexnbd /run/flexnbd; do
		rmdir "$dir" 2>/dev/null || true
	done
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
