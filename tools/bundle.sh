#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# bundle.sh BIN FOLDER: make the bundles of the stock plugins, whose binaries are in BIN,
# as tarballs in FOLDER.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1 folder=$2
umask 022

# `plugin bundle` starts the plugin, and starts none that somebody else could have written.
# After `make` by a person, and in `sudo make install`, that is so of bin/.
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for source in cmd/flexnbd-*; do
	plugin=${source##*/}
	install -m 755 "$bin/$plugin" "$dir/$plugin"
	install -m 644 "docs/$plugin.1" "$dir/$plugin.1"
	case $plugin in # what servers confine it to
	flexnbd-backend-file | flexnbd-backend-blockdev) needs=disk ;;
	flexnbd-transport-tcp) needs=internet ;;
	flexnbd-transport-unix) needs=sockets ;;
	*) echo "bundle.sh: what does $plugin need? Say so here." >&2 && exit 1 ;;
	esac
	"$bin/flexnbd" plugin bundle --needs "$needs" --license LICENSE --add packaging/third-party.txt -o "$folder" "$dir/$plugin" >/dev/null
done
