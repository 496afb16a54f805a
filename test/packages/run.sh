#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# make package-test: try make install, look at the packages in dist/ with lintian and rpm,
# then install, use and remove them in Debian roots that have nothing of this machine in
# them. As root, on Debian. The roots are made with debootstrap, once, and kept in CACHE;
# they are unpacked anew for each use.
set -eEuo pipefail
trap 'echo "package-test: ${0##*/}, line $LINENO: this failed: $BASH_COMMAND" >&2' ERR
cd "$(dirname "$0")/../.."
cache=${CACHE:-/var/cache/flexnbd-package-test}
# What the tests in the second root use, as somebody who uses flexnbd has it.
clients=bash-completion,fish,libnbd-bin,man-db,pkgconf,qemu-utils,systemd,zsh

say() { printf -- '-- %s (%ds)\n' "$*" "$SECONDS"; }
die() { printf 'package-test: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" -eq 0 ] || die 'chroot and debootstrap need root: sudo make package-test'
for tool in debootstrap lintian rpm; do
	command -v "$tool" >/dev/null || die "$tool is missing: apt-get install debootstrap lintian rpm"
done
debs=(dist/flexnbd*.deb)
[ ${#debs[@]} -eq 5 ] || die 'dist/ has not the five packages of one version: run make dist'
(cd dist && sha256sum --quiet -c SHA256SUMS) || die 'dist/ is not what make dist made: run it again'

dir=$(mktemp -d "${TMPDIR:-/tmp}/flexnbd-packages.XXXXXX")
trap 'rm -rf --one-file-system "$dir"' EXIT

say 'make install, make uninstall'
test/packages/install.sh

say lintian
# Overridden, with the reason: packaging/debian/lintian-overrides. How long a name may be on
# a CD does not matter to one with a commit and ".dirty" in it.
lintian --suppress-tags package-has-long-file-name --fail-on error,warning --tag-display-limit 0 --allow-root "${debs[@]}"

say 'the .rpm have what the .deb have'
# Folders are left out, as rpm doesn't list those of the system, and what the two systems
# have in different places or not at all.
same='/(share/doc/.*/(changelog.*|copyright|CHANGELOG.md|third-party.txt)|share/lintian/.*|share/licenses/.*|share/zsh/.*)$'
for deb in "${debs[@]}"; do
	name=${deb##*/} name=${name%%_*}
	rpm=(dist/"$name"-[0-9]*.rpm)
	rpm -K --nosignature "${rpm[@]}" >/dev/null
	dpkg-deb --fsys-tarfile "$deb" | tar -tv | awk '!/^d/ { print $1, $6 }' | sed 's| \./| /|' | grep -Ev "$same" | sort >"$dir/deb"
	rpm -qp --nosignature --qf '[%{FILEMODES:perms} %{FILENAMES}\n]' "${rpm[@]}" | grep -v '^d' | grep -Ev "$same" | sort >"$dir/rpm"
	diff "$dir/deb" "$dir/rpm" || die "$name.deb and $name.rpm differ"
	[ -s "$dir/deb" ] || die "$deb is empty"
	[ "$name" = flexnbd ] || [ -z "$(rpm -qp --nosignature --scripts "${rpm[@]}")" ] || die "$name.rpm runs a script"
	[ "$name" = flexnbd ] || [ "$(dpkg-deb --ctrl-tarfile "$deb" | tar -t | grep -cE '(pre|post)(inst|rm)')" = 0 ] || die "$name.deb runs a script"
done
rpm -qp --nosignature --requires dist/flexnbd-backend-file-*.rpm | grep -q '^flexnbd >= '

# base NAME PACKAGES: a Debian with the essential packages and these, from this machine's
# own mirror, kept as a tarball. Another list makes another one.
. /etc/os-release
base() {
	local tarball
	tarball=$cache/$VERSION_CODENAME-$1-$(echo "$2" | sha256sum | cut -c 1-12).tar
	if [ ! -e "$tarball" ]; then
		say "debootstrap $VERSION_CODENAME, $1"
		mkdir -p "$cache"
		mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
			sed -n "s/ $VERSION_CODENAME main$//p" | head -n 1)
		timeout 600 debootstrap --variant=minbase ${2:+--include="$2"} "$VERSION_CODENAME" "$dir/new" \
			"${mirror:-http://deb.debian.org/debian}" >"$dir/log" 2>&1 ||
			{ tail -n 20 "$dir/log" >&2; die "debootstrap failed: does apt-get update work here?"; }
		rm -rf "$dir/new/var/cache/apt/archives"/*.deb
		tar -C "$dir/new" -cf "$tarball.part" .
		mv "$tarball.part" "$tarball"
		rm -rf --one-file-system "$dir/new"
	fi
	mkdir "$dir/$1"
	tar -C "$dir/$1" -xf "$tarball"
	mkdir "$dir/$1/packages"
	cp dist/*.deb test/packages/"$1".sh "$dir/$1/packages/"
}

# inside NAME: run the script of this name in its root, in namespaces of its own. Whatever
# it has started or mounted ends with it.
inside() {
	timeout 120 unshare --mount --pid --ipc --uts --fork --kill-child --root="$dir/$1" --mount-proc --wd=/packages \
		env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 bash "/packages/$1.sh"
}

base bare ''
say 'a root with nothing else'
inside bare
base full "$clients"
cp -a "$dir/full" "$dir/boot"
cp test/packages/unit.sh "$dir/boot/packages/"
say 'a root with clients'
inside full
say 'a root whose systemd runs'
test/packages/boot.sh "$dir/boot"
say 'all passed'
