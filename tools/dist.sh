#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# dist.sh BIN VERSION: make dist/ of the binaries in BIN and of this tree: bundles, .deb, .rpm,
# source tarball and SBOM, beside the module proxy that is there already, and the sums of
# all. `make dist` builds BIN and the tools first. The same source gives the same bytes,
# in whatever folder and by whomever it is built: see `make dist-check`.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1
VERSION=$2
go=${GO:-go}
SOURCE_DATE_EPOCH=$(tools/version.sh epoch)
ARCH=$("$go" env GOARCH)
# Whoever passes packages on puts his own name there.
MAINTAINER=${MAINTAINER:-The flexnbd project <maintainers@flexnbd.example>}
export VERSION SOURCE_DATE_EPOCH ARCH MAINTAINER LC_ALL=C TZ=UTC
umask 022

find dist -mindepth 1 -maxdepth 1 ! -name goproxy -exec rm -rf {} +
roots=$bin/roots
rm -rf "$roots"

tools/bundle.sh "$bin" dist

# archive: the source tarball. What git tracks, as it is now; in a source tarball, which
# makes the same one again, everything that was not built.
archive() {
	local name=flexnbd-$VERSION top=$bin/source
	rm -rf "$top"
	mkdir -p "$top"
	printf '%s\n%s\n' "$VERSION" "$SOURCE_DATE_EPOCH" >"$top/VERSION"
	if [ -e .git ]; then
		git ls-files -z
	else
		find . -type f ! -path './bin/*' ! -path './dist/*' ! -path ./VERSION -printf '%P\0'
	fi | sort -z >"$top/files"
	tar --null --no-recursion --format=posix --pax-option=delete=atime,delete=ctime \
		--owner=0 --group=0 --numeric-owner --mode=u+rw,go+r,go-w,a-s --mtime="@$SOURCE_DATE_EPOCH" \
		--transform="s|^|$name/|S" -cf - -C "$top" VERSION -C "$PWD" -T "$top/files" |
		gzip -9n >"dist/$name.tar.gz"
}
archive

# The plugins' binaries have parts of the same modules in them. Without a time and a random
# number: what it is of, the hashes say.
bin/tools/cyclonedx-gomod bin -json -noserial -notimestamp -std -version "$VERSION" \
	-output "dist/flexnbd-$VERSION.cdx.json" "$bin/flexnbd" 2>"$bin/sbom.log" || { cat "$bin/sbom.log" >&2; exit 1; }

# debian ROOT PACKAGE: what Debian wants besides, or elsewhere.
debian() {
	local doc=$1/usr/share/doc/$2
	mkdir -p "$doc"
	# One file for all licences; the GPL's text is in base-files.
	cat packaging/debian/copyright >"$doc/copyright"
	[ ! -d "$1/usr/share/licenses" ] || mv "$1/usr/share/licenses/flexnbd/third-party.txt" "$doc/"
	rm -rf "$1/usr/share/licenses"
	printf '%s (%s-1) unstable; urgency=medium\n\n  * See changelog.gz in the package flexnbd.\n\n -- %s  %s\n' \
		"$2" "$VERSION" "$MAINTAINER" "$(date -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.Debian.gz"
	[ ! -e "$doc/CHANGELOG.md" ] || mv "$doc/CHANGELOG.md" "$doc/changelog"
	find "$doc" -name changelog -exec gzip -9n {} +
	mkdir -p "$1/usr/share/lintian/overrides"
	sed "s/@package@/$2/" packaging/debian/lintian-overrides >"$1/usr/share/lintian/overrides/$2"
}

# package FORMAT NAME [WHAT]: stage what packaging/files lists, and pack it.
package() {
	local root=$roots/$1/$2 config=packaging/nfpm/plugin.yaml zsh=share/zsh/site-functions
	[ "$2" != flexnbd ] || config=packaging/nfpm/flexnbd.yaml
	# Debian's zsh has another folder for packages.
	[ "$1" != deb ] || zsh=share/zsh/vendor-completions
	DESTDIR=$root PREFIX=/usr ZSHDIR=$zsh BUNDLES=dist BIN=$bin tools/install.sh install "$2"
	[ "$1" != deb ] || debian "$root" "$2"
	[ ! -d "$root/usr/share/man" ] || find "$root/usr/share/man" -type f -exec gzip -9n {} +
	find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	NAME=$2 SUMMARY=${3:-} ROOT=$root bin/tools/nfpm package -f "$config" -p "$1" -t dist/ >/dev/null
}

for format in deb rpm; do
	package "$format" flexnbd
	package "$format" flexnbd-backend-file 'backend for files'
	package "$format" flexnbd-backend-blockdev 'backend for block devices'
	package "$format" flexnbd-transport-tcp 'transport for TCP'
	package "$format" flexnbd-transport-unix 'transport for Unix sockets'
done

(cd dist && find . -type f ! -name SHA256SUMS -printf '%P\0' | sort -z | xargs -0 sha256sum >SHA256SUMS)
ls -l dist
