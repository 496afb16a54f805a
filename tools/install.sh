#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# install.sh install|uninstall [PACKAGE...]: put in place, or remove, what packaging/files
# lists, of all packages or of those named. `make install` says what there is to set:
#   BIN      where the binaries are
#   PREFIX   where everything goes, e.g. /usr
#   DESTDIR  a folder that stands for /, for packages
#   ZSHDIR   where zsh looks for completions, below PREFIX
#   BUNDLES  where the plugins' bundles are, if they are made already
set -euo pipefail
cd "$(dirname "$0")/.."
do=${1:-}
shift || true
packages=("$@")
bin=${BIN:-bin}
to=${DESTDIR:-}${PREFIX:?}
umask 022

# Also for the folders of a bundle: what is in it has to be known to be removed.
inside() { printf '%s\n' LICENSE SHA256SUMS plugin.json third-party.txt "$1" "$1.1"; }

wanted() {
	local package
	[ ${#packages[@]} -gt 0 ] || return 0
	for package in "${packages[@]}"; do
		[ "$package" != "$1" ] || return 0
	done
	return 1
}

# each COMMAND: call it with the mode, source and target of every file.
each() {
	local package mode source target file
	while read -r package mode source target; do
		case $package in '' | '#'*) continue ;; esac
		wanted "$package" || continue
		target=${target/#@zsh@/${ZSHDIR:-share/zsh/site-functions}}
		source=${source/#@bin@/$bin}
		if [ "$mode" = bundle ]; then
			for file in $(inside "$package"); do
				mode=644
				[ "$file" != "$package" ] || mode=755
				"$1" "$mode" "$unpacked/$package/$file" "$to/$target/$file"
			done
			continue
		fi
		for file in $source; do
			case $target in
			*/) "$1" "$mode" "$file" "$to/$target${file##*/}" ;;
			*) "$1" "$mode" "$file" "$to/$target" ;;
			esac
		done
	done <packaging/files
}

# put MODE SOURCE TARGET
put() {
	if [ "$1" = fill ]; then
		sed -e "s|@prefix@|$PREFIX|g" -e "s|@version@|$version|g" \
			-e "s|^ExecStart=/usr/bin/|ExecStart=$PREFIX/bin/|" "$2" >"$unpacked/filled"
		set -- 644 "$unpacked/filled" "$3"
	fi
	# A former `make install` put bare binaries where the bundles' folders are now.
	[ ! -f "${3%/*}" ] || rm -f "${3%/*}"
	install -D -m "$1" "$2" "$3"
}

# take MODE SOURCE TARGET: remove the file, and the folders that are flexnbd's own if they
# are empty then.
take() {
	local folder
	rm -f "$3"
	folder=${3%/*}
	while [[ ${folder#"$to"} == */flexnbd* ]] && rmdir "$folder" 2>/dev/null; do
		folder=${folder%/*}
	done
}

unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
case $do in
install)
	version=$("$bin/flexnbd" version | cut -d ' ' -f 2)
	if [ -z "${BUNDLES:-}" ]; then
		BUNDLES=$unpacked/tarballs
		tools/bundle.sh "$bin" "$BUNDLES"
	fi
	for tarball in "$BUNDLES"/flexnbd-*_*_*_*.tar.gz; do
		tar -C "$unpacked" --no-same-owner -xzf "$tarball"
		plugin=${tarball##*/}
		plugin=${plugin%%_*}
		if [ "$(ls "$unpacked/$plugin" | LC_ALL=C sort)" != "$(inside "$plugin" | LC_ALL=C sort)" ]; then
			echo "install.sh: the bundle $tarball has other files in it than tools/install.sh knows: correct inside()" >&2
			exit 1
		fi
	done
	each put
	;;
uninstall)
	each take
	;;
*)
	echo "usage: install.sh install|uninstall [PACKAGE...]" >&2
	exit 2
	;;
esac
