#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# test.sh: all tests. Those that drive real programs run beside the rest, since both
# wait for something half of the time. The programs are built without the race
# detector, so that it would cost those tests a third of their time and see nothing but
# the tests; `make soak` has it in both. $1 is -race, or empty.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}

said=$(mktemp)
trap 'rm -f "$said"' EXIT
"$go" test -p 1 -timeout 5m ./test/e2e ./test/crash ./test/conformance ./test/python-plugin ./core/check >"$said" 2>&1 &
drivers=$!
mapfile -t rest < <("$go" list ./... | grep -vE '(/test/(e2e|crash|conformance|python-plugin)|/core/check)$')
status=0
if [ -n "${1:-}" ]; then
	export CGO_ENABLED=1
fi
"$go" test ${1:+"$1"} -timeout 5m "${rest[@]}" || status=$?
wait "$drivers" || status=$?
cat "$said"
"$go" test -tags failpoints ./core/failpoint || status=$?
exit "$status"
