#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Under a systemd that runs: what flexnbd@.service and the manuals say of the unit is so.
# Called by boot.sh.
set -eEuo pipefail
trap 'echo "package-test: ${0##*/}, line $LINENO: this failed: $BASH_COMMAND" >&2' ERR

say() { printf '   %s\n' "$*"; }
die() { printf 'package-test: %s\n' "$*" >&2; exit 1; }
# The journal has what systemd said, and what flexnbd did.
ended() {
	status=$?
	[ "$status" -ne 0 ] || return 0
	journalctl --sync || true
	systemctl --no-pager --full --lines 0 status 'flexnbd@*' || true
	journalctl --no-pager --output short-monotonic --unit 'flexnbd@*' | tail -n 100 || true
}
trap ended EXIT
# By systemd, when it has taken too long: that, too, is a failure.
trap 'exit 1' TERM

# get DISK PROPERTY: what systemd says about the unit of a disk.
get() { systemctl show --property "$2" --value "flexnbd@$1"; }
# word DISK NAME: a word of a server's status.
word() { flexnbd status --sock "/run/flexnbd/$1.sock" | tr ' ' '\n' | sed -n "s/^$2=//p"; }
# expect VALUE COMMAND...: that is what the command says now.
expect() {
	local is
	is=$("${@:2}")
	[ "$is" = "$1" ] || die "${*:2}: '$is' and not '$1'"
}
# wait_for PATTERN COMMAND...: what it says is like that soon.
wait_for() {
	local is end=$((SECONDS + 30))
	# shellcheck disable=SC2053 # a pattern
	until is=$("${@:2}" 2>/dev/null) && [[ $is == $1 ]]; do
		[ "$SECONDS" -lt "$end" ] || die "${*:2}: '$is' and not '$1', for 30 seconds"
		sleep 0.05
	done
}
# start DISK, refused DISK: bounded, as systemd's patience is longer.
start() { timeout 60 systemctl start "flexnbd@$1"; }
refused() { if start "$1" 2>/dev/null; then die "flexnbd@$1 started"; fi; }
# disk NAME VERB PORT: an image, and the configuration, as example.conf has it.
disk() {
	truncate -s 8M "/srv/images/$1 disk.img"
	chown flexnbd "/srv/images/$1 disk.img"
	cat >"/etc/flexnbd/$1.conf" <<-END
		FLEXNBD_ARGS="$2 \\
		    --addr 127.0.0.1 --port $3 \\
		    --file '/srv/images/$1 disk.img' \\
		    --sock /run/flexnbd/$1.sock"
	END
}
# holds PORT: the data is there. Clients that come while the backend is replaced wait.
holds() { expect hello timeout 60 flexnbd read --addr 127.0.0.1 --port "$1" --from 4096 --size 6; }
# processes DISK, count DISK: those of a unit.
processes() { cat "/sys/fs/cgroup$(get "$1" ControlGroup)/cgroup.procs"; }
count() { processes "$1" | wc -l; }

say 'the package brings its user and folders'
if id flexnbd 2>/dev/null; then die 'the root is not clean'; fi
dpkg -i flexnbd_*.deb >/dev/null
id flexnbd >/dev/null
[ "$(stat -c '%U %G %a' /run/flexnbd /var/lib/flexnbd /etc/flexnbd | tr '\n' ' ')" = 'flexnbd flexnbd 750 flexnbd flexnbd 750 root flexnbd 750 ' ]
install -d -o flexnbd /srv/images

say 'a start returns when the server is ready'
disk web1 serve 10809
start web1
# At once, without waiting: otherwise it came back too early.
server=$(word web1 pid) || die 'the server is not ready'
expect "$server" get web1 MainPID
expect active get web1 ActiveState
expect 'serving at 127.0.0.1:10809: "/srv/images/web1 disk.img"' get web1 StatusText

say 'it is confined, and may do nothing'
user=$(id -u flexnbd)
# The server, the launcher and two plugins.
expect 4 count web1
for pid in $(processes web1); do
	expect "$user,$user,$user,$user" awk '/^Uid:/ { print $2 "," $3 "," $4 "," $5 }' "/proc/$pid/status"
	expect 1 awk '/^NoNewPrivs:/ { print $2 }' "/proc/$pid/status"
	expect '' awk '/^Cap/ && $2 !~ /^0+$/' "/proc/$pid/status"
done
# What this kernel has, as a server finds it that is in no unit.
truncate -s 8M /srv/images/other.img
chown flexnbd /srv/images/other.img
setpriv --reuid flexnbd --regid flexnbd --clear-groups flexnbd serve --addr 127.0.0.1 --port 0 \
	--file /srv/images/other.img --sock /run/flexnbd/other.sock 2>/dev/null &
other=$!
wait_for "$other" word other pid
sandbox=$(word other sandbox)
say "sandbox=$sandbox"
expect "$sandbox" word web1 sandbox
kill "$other" && wait "$other"

say 'a backend that is killed is replaced'
echo hello | flexnbd write --addr 127.0.0.1 --port 10809 --from 4096 --size 6
kill -KILL "$(word web1 backend_pid)"
holds 10809
wait_for 1 word web1 backend_restarts
expect "$server" get web1 MainPID

say 'a server that is killed is started again'
systemctl kill --kill-whom=main --signal=KILL flexnbd@web1
wait_for 1 get web1 NRestarts
wait_for active get web1 ActiveState
holds 10809
expect 4 count web1

say 'a stop leaves no socket'
systemctl stop flexnbd@web1
expect inactive get web1 ActiveState
expect success get web1 Result
expect '' ls /run/flexnbd

say 'a disk that was given away stays down'
start web1
expect 0 get web1 NRestarts
disk w2 'listen --or-serve' 10822
start w2
timeout 60 flexnbd mirror --sock /run/flexnbd/web1.sock --addr 127.0.0.1 --port 10822 --wait
wait_for inactive get web1 ActiveState
expect 0 get web1 ExecMainStatus
expect 0 get web1 NRestarts
wait_for 'serving at *' get w2 StatusText
expect owner word w2 owner_state
holds 10822
refused web1
wait_for failed get web1 ActiveState
expect 3 get web1 ExecMainStatus
expect 0 get web1 NRestarts
timeout 60 systemctl restart flexnbd@w2
holds 10822

say 'a command line that is wrong is not tried again'
disk wrong 'serve --nonsense' 10823
refused wrong
wait_for failed get wrong ActiveState
expect 2 get wrong ExecMainStatus
expect 0 get wrong NRestarts

say 'a failure is tried again; the drop-in for a port below 1024 ends it'
disk low serve 809
refused low
wait_for '[1-9]*' get low NRestarts
systemctl stop flexnbd@low
mkdir /etc/systemd/system/flexnbd@low.service.d
# As the unit says it.
sed -n '/For a port below 1024, a drop-in:$/,/^[^#]/s/^#     //p' /lib/systemd/system/flexnbd@.service |
	tee /etc/systemd/system/flexnbd@low.service.d/override.conf | grep -q CAP_NET_BIND_SERVICE
systemctl daemon-reload
start low
echo hello | flexnbd write --addr 127.0.0.1 --port 809 --from 4096 --size 6
holds 809
echo 'unit.sh: passed'
