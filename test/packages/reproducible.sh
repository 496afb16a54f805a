#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# reproducible.sh: build dist/ a second time and compare every byte with the first. The
# second time it is built of the source tarball, so that what is in it is shown to be
# enough, without git; in a folder of another name; with another umask, time zone,
# language and home. Go's cache is the same: it goes by content, and takes minutes to fill.
set -euo pipefail
cd "$(dirname "$0")/../.."
go=${GO:-go}
first=$PWD/dist

tarball=$(echo "$first"/flexnbd-[0-9]*.tar.gz)
if [ ! -e "$tarball" ]; then
	echo "reproducible.sh: there is no $tarball: run make dist" >&2
	exit 1
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/some where/else" "$dir/home"
# `plugin bundle` would find fault with a folder that its group can write.
umask 027
tar -C "$dir/some where/else" -xzf "$tarball"
second=$(echo "$dir/some where/else"/flexnbd-*)
# The same tools as the first time: what they are built of is in tools/go.mod, and it
# takes longer than all else. What git would say must not matter.
mkdir -p "$second/bin"
cp -a bin/tools "$second/bin/tools"
touch "$second"/bin/tools/*
modules=$("$go" env GOMODCACHE)
path=$("$go" env GOROOT)/bin:$PATH
env -i PATH="$path" GOPROXY="$("$go" env GOPROXY)" GOMODCACHE="$modules" \
	HOME="$dir/home" GOCACHE="$("$go" env GOCACHE)" GIT_CEILING_DIRECTORIES=/ \
	TZ=Asia/Kathmandu LANG=C.UTF-8 LOGNAME=nobody \
	make -C "$second" --no-print-directory dist >"$dir/log" 2>&1 || { tail -n 40 "$dir/log" >&2; exit 1; }

status=0
files() { (cd "$1" && find . -type f -printf '%P\n' | LC_ALL=C sort); }
if ! diff <(files "$first") <(files "$second/dist"); then
	echo "reproducible.sh: the second build of $tarball has other files" >&2
	status=1
fi
while read -r file; do
	cmp "$first/$file" "$second/dist/$file" || status=1
done < <(files "$first")
if [ "$status" -ne 0 ]; then
	echo "reproducible.sh: something about the machine or the folder gets into what is built; diffoscope shows what" >&2
	exit "$status"
fi
echo "reproducible: $(files "$first" | wc -l) files, built twice, are the same"
