#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Make a bundle, a .deb and an .rpm of this plugin, in build/. It needs Go, flexnbd and
# nfpm. The same source gives the same bytes.
set -eu
cd "$(dirname "$0")/.."
umask 022

# The time of all files: the release's, and not now.
SOURCE_DATE_EPOCH=$(date -d "$(sed -n 's/^ -- .*>  //p' packaging/changelog | head -n 1)" +%s)
GOARCH=$(go env GOARCH)
export SOURCE_DATE_EPOCH GOARCH

rm -rf build
mkdir build
# Stripped before there is a bundle, whose checksums are of what is shipped.
CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags='-s -w' -o build/bin/flexnbd-backend-xts .
cp LICENSE flexnbd-backend-xts.1 build/bin/

flexnbd plugin bundle --output build --min-core 0.1.0 build/bin/flexnbd-backend-xts
tar -C build -xzf build/flexnbd-backend-xts_*.tar.gz

gzip -9n <flexnbd-backend-xts.1 >build/flexnbd-backend-xts.1.gz
gzip -9n <packaging/changelog >build/changelog.Debian.gz
cp packaging/copyright packaging/lintian-overrides build/
# The files' times get into the packages.
find build -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

for format in deb rpm; do
	nfpm package -f packaging/nfpm.yaml -p "$format" -t build/
done
