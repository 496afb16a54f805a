#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# In a root with NBD clients, three shells, man and systemd: what the packages bring is
# installed, used and removed. Called by run.sh.
set -eEuo pipefail
trap 'echo "package-test: ${0##*/}, line $LINENO: this failed: $BASH_COMMAND" >&2' ERR

say() { printf '   %s\n' "$*"; }
die() { printf 'package-test: %s\n' "$*" >&2; exit 1; }

snapshot() { find / -xdev \( -path /proc -o -path /packages -o -path /tmp -o -path /run \) -prune -o -print | sort >"/tmp/$1"; }
snapshot before
dpkg -i flexnbd_*.deb flexnbd-*.deb >/dev/null

say 'the plugins are found, and are whole'
dir=/usr/lib/flexnbd/plugins
flexnbd plugin path --json | grep >/dev/null "\"$dir\""
[ "$(pkg-config --variable=plugindir flexnbd)" = "$dir" ]
[ "$(pkg-config --modversion flexnbd)" = "$(flexnbd version | cut -d ' ' -f 2)" ]
flexnbd plugin list
[ "$(flexnbd plugin list | grep -c " ok .*$dir/flexnbd-")" -eq 4 ]
flexnbd plugin verify >/dev/null
for bundle in "$dir"/*; do (cd "$bundle" && sha256sum --quiet -c SHA256SUMS); done

say 'a disk is served by them, as the user of the unit'
id flexnbd >/dev/null
[ "$(stat -c '%U %G %a' /run/flexnbd /var/lib/flexnbd /etc/flexnbd | tr '\n' ' ')" = 'flexnbd flexnbd 750 flexnbd flexnbd 750 root flexnbd 750 ' ]
install -d -o flexnbd /srv/images
truncate -s 8M /srv/images/disk.img
chown flexnbd /srv/images/disk.img
sock=/run/flexnbd/disk.sock
nbd=/run/flexnbd/disk.nbd
# serve ARGUMENTS: a server that answers; the words of its status are in /tmp/status.
serve() {
	setpriv --reuid flexnbd --regid flexnbd --clear-groups \
		flexnbd serve --file /srv/images/disk.img --sock "$sock" --backend file "$@" &
	server=$!
	for _ in $(seq 200); do
		flexnbd status --quiet --sock "$sock" >/tmp/status 2>/dev/null && return
		kill -0 "$server" 2>/dev/null || die 'the server ended early'
		sleep 0.05
	done
	die 'the server did not get ready'
}
stop() { kill "$server" && wait "$server"; }

serve --addr 127.0.0.1 --port 0
# It is the bundle's binary that runs, and not what is inside flexnbd.
flexnbd status --sock "$sock" | tr ' ' '\n' | grep >/dev/null "^backend_path=$dir/flexnbd-backend-file" ||
	{ flexnbd status --sock "$sock"; die 'the backend is not the one of its package'; }
port=$(flexnbd status --sock "$sock" | tr ' ' '\n' | sed -n 's/^address=.*://p')
echo hello | flexnbd write --addr 127.0.0.1 --port "$port" --from 4096 --size 6
[ "$(flexnbd read --addr 127.0.0.1 --port "$port" --from 4096 --size 6)" = hello ]
qemu-io -f raw -c 'write -P 0x5a 1M 64k' -c 'read -P 0x5a 1M 64k' -c flush "nbd://127.0.0.1:$port" >/dev/null
[ "$(nbdinfo --size "nbd://127.0.0.1:$port")" = 8388608 ]
stop
serve --transport unix --addr "$nbd"
qemu-io -f raw -c 'read -P 0x5a 1M 64k' "nbd+unix:///?socket=$nbd" >/dev/null
stop

say 'the manual pages are found, and render'
for page in flexnbd flexnbd-backend-file flexnbd-backend-blockdev flexnbd-transport-tcp flexnbd-transport-unix; do
	man --warnings=w "$page" >/tmp/page 2>/tmp/warnings || die "$page(1): $(cat /tmp/warnings)"
	grep -q NAME /tmp/page
	[ ! -s /tmp/warnings ] || die "$page(1): $(cat /tmp/warnings)"
done
whatis flexnbd | grep >/dev/null -i nbd

say 'the shells complete'
# complete WORDS...: what bash offers for the last of them.
complete_bash() {
	bash -c '
		. /usr/share/bash-completion/bash_completion
		_completion_loader flexnbd || [ $? -eq 124 ]
		COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE} COMP_TYPE=9
		$(complete -p flexnbd | sed "s/.*-F \([^ ]*\).*/\1/") flexnbd "${!#}" flexnbd
		printf "%s\n" "${COMPREPLY[@]}"' bash "$@"
}
complete_bash flexnbd ser | grep >/dev/null '^serve'
complete_bash flexnbd serve --back | grep >/dev/null '^--backend'
fish -c 'complete -C "flexnbd ser"' | grep >/dev/null '^serve'
zsh -c 'autoload -Uz compinit && compinit -u -D && print ${_comps[flexnbd]}' | grep >/dev/null '^_flexnbd$'

say 'systemd takes the units'
cp /usr/share/doc/flexnbd/examples/example.conf /etc/flexnbd/example.conf
systemd-analyze verify --man=yes flexnbd@example.service
rm /etc/flexnbd/example.conf
systemd-sysusers --dry-run flexnbd.conf
# As in a root that is being put together, where nothing is running.
mkdir -p /tmp/root/etc
cp /etc/passwd /etc/group /tmp/root/etc/
systemd-tmpfiles --root=/tmp/root --create /usr/lib/tmpfiles.d/flexnbd.conf
[ -d /tmp/root/var/lib/flexnbd ] && [ -d /tmp/root/etc/flexnbd ]

say 'an upgrade, and everything is removed but the user'
dpkg -i flexnbd_*.deb flexnbd-*.deb >/dev/null
rm -rf /srv/images "$sock" "$nbd"
dpkg -P flexnbd-backend-file flexnbd-backend-blockdev flexnbd-transport-tcp flexnbd-transport-unix >/dev/null
touch /etc/flexnbd/mine.conf
dpkg -r flexnbd >/dev/null
[ -e /etc/flexnbd/mine.conf ] || die 'a removal took the configuration of a disk'
dpkg -P flexnbd >/dev/null 2>&1
[ -e /etc/flexnbd/mine.conf ] || die 'a purge took the configuration of a disk'
rm -r /etc/flexnbd
snapshot after
# What man-db, dpkg and useradd have written for themselves.
left=$(comm -3 /tmp/before /tmp/after | grep -vE '/var/(cache/man|log|lib/dpkg)/|/etc/(passwd|group|shadow|gshadow)-$|/root/' || true)
[ -z "$left" ] || die "the packages left something behind, or took it away: $left"
[ ! -e /run/flexnbd ] || die '/run/flexnbd is still there'
