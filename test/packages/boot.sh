#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# boot.sh ROOT: boot the systemd in ROOT, as PID 1 of namespaces of its own, and have it run
# ROOT/packages/unit.sh. What that writes is shown, and how it ends is how this ends.
# Nothing stays, whatever fails, but what was written to ROOT. Called by run.sh.
set -eEuo pipefail
trap 'echo "package-test: ${0##*/}, line $LINENO: this failed: $BASH_COMMAND" >&2' ERR
root=$1
pid1=$(dirname "$0")/pid1.sh
log=$root/packages/log

die() { printf 'package-test: %s\n' "$*" >&2; exit 1; }

# A cgroup that systemd has as its whole tree: in the machine's own, it would make folders
# and look for services.
hierarchy=$(findmnt --noheadings --list --types cgroup2 --output TARGET | head -n 1)
[ -n "$hierarchy" ] || die 'a systemd that runs needs cgroups, version 2'
cgroup=$hierarchy$(sed -n 's/^0:://p' /proc/self/cgroup)/flexnbd-packages.$$

clean() {
	echo 1 >"$cgroup/cgroup.kill"
	for _ in $(seq 200); do
		grep -q '^populated 0' "$cgroup/cgroup.events" && break
		sleep 0.05
	done
	find "$cgroup" -depth -type d -exec rmdir {} +
}
mkdir "$cgroup"
trap clean EXIT

# In the background, as bash puts off signals while it waits for what is not. SIGKILL, as
# systemd takes others for orders.
: >"$log"
timeout --signal=KILL 240 bash -c 'echo $$ >"$1/cgroup.procs" &&
	exec unshare --mount --pid --cgroup --ipc --uts --net --fork --kill-child bash "$2" "$3"' \
	bash "$cgroup" "$pid1" "$root" </dev/null &
status=0
wait $! || status=$?
cat "$log"
[ "$status" -eq 0 ] || die "systemd, or what it ran, ended with status $status"
# Should systemd end of itself, for whatever reason.
grep -qx 'unit.sh: passed' "$log" || die 'systemd ended early'
