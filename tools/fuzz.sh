#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# fuzz.sh TIME [PACKAGE...]: run every fuzz target of the packages, or of the whole
# tree, for TIME each (as in 60s).
#
# An input that fails is written by Go to the target's testdata/fuzz and must be
# committed with the fix. Of the inputs that reached new code, which Go keeps
# in its cache only, FUZZKEEP small ones for each target are put there too, so
# that every later `go test` repeats them.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-60s}
shift || true
[ $# -gt 0 ] || set -- ./...
go=${GO:-go}
keep=${FUZZKEEP:-16}
module=$($go list -m)
cache=$($go env GOCACHE)/fuzz

# "go test -list" prints a package's targets, then a line "ok PACKAGE TIME".
targets=$($go test -list '^Fuzz' "$@" | awk '
	/^Fuzz/ { names[n++] = $1 }
	$1 == "ok" { for (i = 0; i < n; i++) print $2, names[i]; n = 0 }')
if [ -z "$targets" ]; then
	echo "fuzz.sh: no fuzz target found" >&2
	exit 1
fi
echo "$(wc -l <<<"$targets") fuzz targets, $time each"

# keep_corpus PACKAGE TARGET
keep_corpus() {
	local from=$cache/$1/$2 to=.${1#"$module"}/testdata/fuzz/$2 have file
	[ "$keep" -gt 0 ] && [ -d "$from" ] || return 0
	mkdir -p "$to"
	have=$(find "$to" -type f | wc -l)
	# Names are hashes, so the first ones are a fair choice.
	while [ "$have" -lt "$keep" ] && read -r file; do
		[ -e "$to/$file" ] && continue
		cp "$from/$file" "$to/$file"
		have=$((have + 1))
	done < <(find "$from" -type f -size -2k -printf '%f\n' | sort)
}

failed=
while read -r package target; do
	echo "== $package $target"
	if $go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package" </dev/null; then
		keep_corpus "$package" "$target"
	else
		failed="$failed $target"
	fi
done <<<"$targets"
if [ -n "$failed" ]; then
	echo "fuzz.sh: failed:$failed" >&2
	exit 1
fi
