#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# make install puts everything where packaging/files says, below DESTDIR, and make uninstall
# takes it away again, but nothing that others have put beside it.
set -eEuo pipefail
trap 'echo "package-test: ${0##*/}, line $LINENO: this failed: $BASH_COMMAND" >&2' ERR
cd "$(dirname "$0")/../.."

die() { printf 'package-test: %s\n' "$*" >&2; exit 1; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/flexnbd-install.XXXXXX")
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/opt/it/lib/flexnbd/plugins"
touch "$dir/opt/it/lib/flexnbd/plugins/flexnbd-backend-file" # by a former make install
umask 077 # which must not show in what is installed
make -s install BIN=bin/dist DESTDIR="$dir" PREFIX=/opt/it
"$dir/opt/it/bin/flexnbd" version
secret=$(find "$dir" -mindepth 1 ! -perm -go=r)
[ -z "$secret" ] || die "make install: not everybody can read $secret"
strange=$(grep -rIl -e '@[a-z]*@' "$dir"/opt/it/{lib,share/pkgconfig} || true)
[ -z "$strange" ] || die "make install: something was not put in: $strange"
grep -q '^ExecStart=/opt/it/bin/flexnbd ' "$dir/opt/it/lib/systemd/system/flexnbd@.service"
(cd "$dir/opt/it/lib/flexnbd/plugins/flexnbd-backend-file" && sha256sum --quiet -c SHA256SUMS)

mkdir "$dir/opt/it/lib/flexnbd/plugins/flexnbd-backend-other"
touch "$dir/opt/it/bin/other"
make -s uninstall BIN=bin/dist DESTDIR="$dir" PREFIX=/opt/it
left=$(cd "$dir/opt/it" && find . ! -type d -o -name '*flexnbd*' | LC_ALL=C sort | tr '\n' ' ')
[ "$left" = './bin/other ./lib/flexnbd ./lib/flexnbd/plugins/flexnbd-backend-other ' ] ||
	die "make uninstall left $left"
