#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# version.sh version|epoch: what this tree is called, and the time of everything that is
# built from it, in seconds since 1970. A source tarball has both in its file VERSION, a
# clone asks git. The version is one for dpkg and for rpm: it has no "-", and with "~" or
# "+" it sorts before or after the release that sdk.Version names.
set -euo pipefail
cd "$(dirname "$0")/.."

release=$(sed -n 's/^const Version = "\(.*\)"$/\1/p' sdk/serve.go)
if [ -e VERSION ]; then
	version=$(sed -n 1p VERSION)
	epoch=$(sed -n 2p VERSION)
elif [ -e .git ] && epoch=$(git log -1 --format=%ct 2>/dev/null); then
	commit=git$(date -u -d "@$epoch" +%Y%m%d%H%M%S).$(git rev-parse HEAD | cut -c 1-8)
	if git describe --exact-match --match "v$release" >/dev/null 2>&1; then
		version=$release
	elif git describe --match "v$release" >/dev/null 2>&1; then
		version=$release+$commit
	else
		version=$release~$commit
	fi
	[ -z "$(git status --porcelain --untracked-files=no)" ] || version+=.dirty
else
	version=$release~devel
	epoch=
fi

case ${1:-} in
version)
	echo "$version"
	;;
epoch)
	if [ -z "$epoch" ]; then
		echo "version.sh: no file VERSION, and git knows no commit: use a clone or a source tarball (make dist)" >&2
		exit 1
	fi
	echo "$epoch"
	;;
*)
	echo "usage: version.sh version|epoch" >&2
	exit 2
	;;
esac
