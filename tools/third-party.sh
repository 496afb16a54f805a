#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# third-party.sh write|check: make packaging/third-party.txt, the licences of what is
# linked into the binaries, or compare it with what is there. Whoever passes the binaries
# on has to pass these on, so every package and bundle has the file in it. It is in the
# tree, so that `make install` needs no Go.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
list=packaging/third-party.txt

# text TITLE FOLDER: the licences in a module's folder.
text() {
	local file found=
	for file in "$2"/{LICENSE,License,LICENCE,COPYING,NOTICE,PATENTS}*; do
		[ -e "$file" ] || continue
		found=yes
		printf '\n%s\n%s, %s\n%s\n\n' "$rule" "$1" "${file##*/}" "$rule"
		cat "$file"
	done
	if [ -z "$found" ]; then
		echo "third-party.sh: no licence found for $1 in $2: it must not be linked" >&2
		return 1
	fi
}

licences() {
	local rule name version folder
	rule=$(printf '=%.0s' {1..80})
	echo 'The binaries of flexnbd have parts of these Go modules in them. Made by'
	echo '`make third-party`; do not edit it by hand.'
	# Which Go it was built with, the binary knows; the licence is the same for each.
	text 'Go and its standard library' "$("$go" env GOROOT)"
	"$go" list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/... |
		LC_ALL=C sort -u | while read -r name version folder; do
		text "$name $version" "$folder"
	done
}

new=$(mktemp)
trap 'rm -f "$new"' EXIT
licences >"$new"
case ${1:-} in
write)
	cat "$new" >"$list"
	;;
check)
	if ! diff -u "$list" "$new"; then
		echo "third-party.sh: $list is stale: run make third-party and commit the result" >&2
		exit 1
	fi
	;;
*)
	echo "usage: third-party.sh write|check" >&2
	exit 2
	;;
esac
