#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# changelog.sh write|check: make the section "Unreleased" of CHANGELOG.md of what
# the files in changelog/unreleased say, or fail when it says something else.
# changelog/README.md has the form of these files.
set -euo pipefail
cd "$(dirname "$0")/.."

# entries prints each file as a list item: its first line, then the rest
# indented.
entries() {
	local file
	for file in changelog/unreleased/*.md; do
		[ -e "$file" ] || continue
		if ! head -n 1 "$file" | grep -qE '^[^#[:space:]].*\.$'; then
			echo "changelog.sh: $file: the first line must be a sentence" >&2
			return 1
		fi
		awk 'NR == 1 { print "- " $0; next } /^$/ { print; next } { print "  " $0 }' "$file"
	done
}

new=$(mktemp)
trap 'rm -f "$new"' EXIT
{
	cat <<-'HEAD'
		# Changelog

		Made by `make changelog` from the files in `changelog/`; do not edit it by hand.

		## Unreleased

	HEAD
	entries
	# What was released stays as it is.
	[ ! -e CHANGELOG.md ] || awk '/^## / { released = !/^## Unreleased$/; if (released) print "" } released' CHANGELOG.md | cat -s
} >"$new"
case ${1:-} in
write)
	cat "$new" >CHANGELOG.md
	;;
check)
	if ! diff -u CHANGELOG.md "$new"; then
		echo "changelog.sh: CHANGELOG.md is stale: run make changelog and commit the result" >&2
		exit 1
	fi
	;;
*)
	echo "usage: changelog.sh write|check" >&2
	exit 2
	;;
esac
