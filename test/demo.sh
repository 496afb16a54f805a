#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# make demo: serves an image, writes to it from a real client, reads it back,
# verifies, and shows what runs. Needs nothing but bin/flexnbd; with nbdcopy and
# nbdinfo (Debian: libnbd-bin) it shows more. Leaves nothing behind.
set -euo pipefail

PATH=$(cd "$(dirname "$0")/../bin" && pwd):$PATH
dir=$(mktemp -d "${TMPDIR:-/tmp}/flexnbd-demo.XXXXXX")
server=

finish() {
	[ -z "$server" ] || kill "$server" 2>/dev/null || true
	wait 2>/dev/null || true
	rm -rf "$dir"
}
trap finish EXIT
exec 3>&1

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*" >&3; "$@"; } # the words also where the output goes to a file
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# wait_ready waits until the control socket answers, for 10 seconds at most.
wait_ready() {
	for _ in $(seq 200); do
		flexnbd status --quiet --sock "$dir/sock" >"$dir/status" 2>/dev/null && return
		kill -0 "$server" 2>/dev/null || die "the server ended early"
		sleep 0.05
	done
	die "the server did not get ready"
}

# key shows one value of the last status.
key() { tr ' ' '\n' <"$dir/status" | sed -n "s/^$1=//p"; }

# tree shows a process and its children.
tree() {
	printf '  %s %s\n' "$1" "$(tr '\0' ' ' <"/proc/$1/cmdline")"
	for child in $(cat /proc/"$1"/task/*/children); do
		printf '   └─ %s %s: %s\n' "$child" "$(cat "/proc/$child/comm")" "$(tr '\0' ' ' <"/proc/$child/cmdline")"
	done
}

say "1. An image of 64 MiB, all hole"
run truncate -s 64M "$dir/disk.img"
run du -h --apparent-size "$dir/disk.img"
run du -h "$dir/disk.img"

say "2. Serve it (port 0: any free one)"
serve=(flexnbd serve --addr 127.0.0.1 --port 0 --file "$dir/disk.img" --sock "$dir/sock")
echo "$ ${serve[*]} &"
"${serve[@]}" 3>&- &
server=$!
wait_ready
address=$(key address)
port=${address##*:}
to=(--addr 127.0.0.1 --port "$port")

say "3. Its status"
tr ' ' '\n' <"$dir/status" | sed 's/^/  /'

say "4. The processes: the core, and each plugin in its own"
tree "$server"

say "5. Write a megabyte at offset 4 MiB, read it back, compare"
head -c 1048576 /dev/urandom >"$dir/written"
run flexnbd write "${to[@]}" --from 4194304 --size 1048576 <"$dir/written"
run flexnbd read "${to[@]}" --from 4194304 --size 1048576 >"$dir/read"
cmp "$dir/written" "$dir/read" || die "what was read is not what was written"
echo "  identical"

say "6. Write zeroes over a hole: nothing is allocated"
before=$(stat -c %b "$dir/disk.img")
head -c 8388608 /dev/zero | run flexnbd write "${to[@]}" --from 16777216 --size 8388608
echo "  blocks before: $before, after: $(stat -c %b "$dir/disk.img")"
[ "$(stat -c %b "$dir/disk.img")" -eq "$before" ] || die "zeroes were allocated"

uri=nbd://127.0.0.1:$port
if have nbdinfo; then
	say "7. What another NBD client sees"
	run nbdinfo --map "$uri"
else
	say "7. nbdinfo is not installed (Debian: libnbd-bin); left out"
fi
if have nbdcopy; then
	say "8. Copy the whole disk out with nbdcopy and compare"
	run nbdcopy "$uri" "$dir/copy.img"
	cmp "$dir/disk.img" "$dir/copy.img" || die "the copy differs"
	echo "  identical; the copy takes $(du -k "$dir/copy.img" | cut -f1) KiB"
else
	say "8. nbdcopy is not installed (Debian: libnbd-bin); left out"
fi

say "9. Stop it"
backend=$(key backend_pid)
transport=$(key transport_pid)
run kill -TERM "$server"
wait "$server" || die "the server ended with exit status $?"
server=
[ ! -e "$dir/sock" ] || die "the control socket is still there"
for pid in $backend $transport; do
	[ ! -d "/proc/$pid" ] || die "plugin process $pid is still there"
done
echo "  exit status 0; no process and no socket left"
