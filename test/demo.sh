#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# make demo: serves an image, writes to it from a real client, reads it back, migrates
# it to another server while a client goes on writing, verifies every acknowledged
# write, and shows what runs. Needs nothing but bin/flexnbd; with nbdcopy and nbdinfo
# (Debian: libnbd-bin) it shows more. Leaves nothing behind.
set -euo pipefail

PATH=$(cd "$(dirname "$0")/../bin" && pwd):$PATH
dir=$(mktemp -d "${TMPDIR:-/tmp}/flexnbd-demo.XXXXXX")
server=
destination=
writer=

finish() {
	touch "$dir/enough"
	for process in $server $destination $writer; do kill "$process" 2>/dev/null || true; done
	wait 2>/dev/null || true
	rm -rf "$dir"
}
trap finish EXIT
exec 3>&1

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*" >&3; "$@"; } # the words also where the output goes to a file
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# wait_ready SOCK PID waits until the control socket answers, for 10 seconds at most.
wait_ready() {
	for _ in $(seq 200); do
		flexnbd status --quiet --sock "$1" >"$dir/status" 2>/dev/null && return
		kill -0 "$2" 2>/dev/null || die "the server ended early"
		sleep 0.05
	done
	die "the server did not get ready"
}

# write_on writes one block after the other, each with its number in it, and notes
# the numbers of those that were acknowledged. It repeats what was not.
write_on() {
	number=0
	while [ ! -e "$dir/enough" ]; do
		until block "$number" | flexnbd write --quiet "${to[@]}" --from $((base + number * 512)) --size 512 2>/dev/null; do
			[ ! -e "$dir/enough" ] || return 0
			echo "$number" >>"$dir/repeated"
		done
		echo "$number" >>"$dir/acknowledged"
		number=$((number + 1))
	done
}

block() { printf '%0512d' "$1"; }

acknowledged() { wc -l <"$dir/acknowledged"; }

# wait_writes N waits until N more writes have been acknowledged.
wait_writes() {
	goal=$(($(acknowledged) + $1))
	for _ in $(seq 600); do
		[ "$(acknowledged)" -lt "$goal" ] || return 0
		sleep 0.05
	done
	die "the client's writes got stuck"
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
wait_ready "$dir/sock" "$server"
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

say "9. A second server, which waits for the disk and will then take over the address"
run truncate -s 64M "$dir/copy.img"
listen=(flexnbd listen --addr 127.0.0.1 --port 0 --rebind-port "$port" --file "$dir/copy.img" --sock "$dir/sock2")
echo "$ ${listen[*]} &"
"${listen[@]}" 3>&- &
destination=$!
wait_ready "$dir/sock2" "$destination"
arrival=$(key address)
run ls "$dir"

say "10. A client that writes all the while"
base=33554432
: >"$dir/acknowledged"
: >"$dir/repeated"
write_on 3>&- &
writer=$!
wait_writes 10
echo "  $(acknowledged) writes acknowledged"

say "11. Migrate"
run flexnbd mirror --addr 127.0.0.1 --port "${arrival##*:}" --sock "$dir/sock" --wait
wait "$server" || die "the first server ended with exit status $?"
server=
echo "  the first server has ended with exit status 0"
wait_writes 10
touch "$dir/enough"
wait "$writer"
writer=

say "12. Every acknowledged write is on the second server, at the first one's address"
run flexnbd read "${to[@]}" --from "$base" --size $(($(acknowledged) * 512)) >"$dir/read"
for number in $(cat "$dir/acknowledged"); do block "$number"; done >"$dir/written"
cmp "$dir/written" "$dir/read" || die "an acknowledged write is lost"
run flexnbd read "${to[@]}" --from 4194304 --size 1048576 >"$dir/read"
cmp <(tail -c +4194305 "$dir/disk.img" | head -c 1048576) "$dir/read" || die "the copy differs"
echo "  $(acknowledged) writes acknowledged, all there; $(wc -l <"$dir/repeated") were repeated in between"
run flexnbd status --explain --sock "$dir/sock2"

say "13. Sparse has stayed sparse"
run du -k "$dir/disk.img" "$dir/copy.img"
echo "$ flexnbd serve --file $dir/disk.img ... # the image that was given away"
if flexnbd serve --addr 127.0.0.1 --port 0 --file "$dir/disk.img" 2>"$dir/refusal"; then
	die "an image that was given away was served"
fi
sed 's/^/  /' "$dir/refusal"

say "14. Stop it"
flexnbd status --sock "$dir/sock2" >"$dir/status"
backend=$(key backend_pid)
transport=$(key transport_pid)
run kill -TERM "$destination"
wait "$destination" || die "the server ended with exit status $?"
destination=
[ ! -e "$dir/sock2" ] || die "the control socket is still there"
for pid in $backend $transport; do
	[ ! -d "/proc/$pid" ] || die "plugin process $pid is still there"
done
echo "  exit status 0; no process and no socket left"
