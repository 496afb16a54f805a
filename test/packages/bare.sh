#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# In a root with Debian's essential packages alone, no systemd and no client: the packages
# need nothing else. Called by run.sh.
set -eEuo pipefail
trap 'echo "package-test: ${0##*/}, line $LINENO: this failed: $BASH_COMMAND" >&2' ERR

die() { printf 'package-test: %s\n' "$*" >&2; exit 1; }

dpkg -i flexnbd_*.deb >/dev/null
flexnbd version
dpkg -i flexnbd-*.deb >/dev/null
[ -z "$(dpkg --audit)" ] || die "dpkg --audit: $(dpkg --audit)"
flexnbd plugin verify
if dpkg -r flexnbd 2>/dev/null; then die 'flexnbd was removed while plugins need it'; fi

dpkg -P flexnbd-backend-file flexnbd-backend-blockdev flexnbd-transport-tcp flexnbd-transport-unix flexnbd >/dev/null
left=$(find / -xdev \( -path /packages -o -path /proc \) -prune -o -name '*flexnbd*' -print)
[ -z "$left" ] || die "the packages left something behind: $left"
