#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# bench-compare.sh REF [package]...: compare the Go benchmarks of REF, a commit, with
# those of this tree as it is on disk. Both are built first and then run in turns, once
# each, COUNT times (10): what else the machine does meets both alike. benchstat says
# what differs, and whether that is more than chance.
#
# BENCH (.) chooses benchmarks, BENCHTIME (1s) says how long one runs. For two
# packages at a time:
#
#	tools/bench-compare.sh HEAD ./core/nbd ./core/export
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -lt 1 ]; then
	echo "usage: bench-compare.sh REF [package]..." >&2
	exit 2
fi
ref=$1
shift
[ $# -gt 0 ] || set -- ./...
go=${GO:-go} count=${COUNT:-10} bench=${BENCH:-.} benchtime=${BENCHTIME:-1s}

if ! commit=$(git rev-parse --verify --quiet "$ref^{commit}"); then
	echo "bench-compare.sh: $ref is no commit of this repository" >&2
	exit 2
fi
if ! [ -x bin/tools/benchstat ]; then
	echo "bench-compare.sh: bin/tools/benchstat is missing: run make bin/tools/benchstat" >&2
	exit 1
fi
here=$PWD
work=$(mktemp -d)
cleanup() {
	git -C "$here" worktree remove --force "$work/ref" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
git worktree add --quiet --detach "$work/ref" "$commit"

# build DIR NAME: a test program for each package of DIR that has benchmarks. The
# list $work/NAME.list has "package folder program" lines.
build() {
	local dir=$1 name=$2 pkg folder program number=0
	shift 2
	: >"$work/$name.list"
	# shellcheck disable=SC2016 # the template is go list's
	while read -r pkg folder; do
		grep -qs '^func Benchmark' "$folder"/*_test.go || continue
		number=$((number + 1))
		program=$work/$name.$number.test
		(cd "$dir" && $go test -c -o "$program" "$pkg")
		echo "$pkg $folder $program" >>"$work/$name.list"
	done < <(cd "$dir" && $go list -e -f '{{if .Dir}}{{.ImportPath}} {{.Dir}}{{end}}' "$@")
}

# run NAME: each benchmark once.
run() {
	local name=$1 pkg folder program
	while read -r pkg folder program; do
		echo "pkg: $pkg"
		(cd "$folder" && "$program" -test.run '^$' -test.bench "$bench" -test.benchtime "$benchtime" -test.benchmem </dev/null)
	done <"$work/$name.list" >>"$work/$name.txt"
}

build "$work/ref" ref "$@"
build "$here" tree "$@"
if ! [ -s "$work/ref.list" ] && ! [ -s "$work/tree.list" ]; then
	echo "bench-compare.sh: no benchmarks in $*" >&2
	exit 1
fi
for ((i = 1; i <= count; i++)); do
	echo "bench-compare.sh: $i of $count" >&2
	# Who comes first changes.
	if ((i % 2)); then
		run ref
		run tree
	else
		run tree
		run ref
	fi
done
bin/tools/benchstat "$ref=$work/ref.txt" "tree=$work/tree.txt"
