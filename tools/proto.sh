#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# proto.sh write|check: generate the Go code of the .proto files beside them, or
# compare it with what is there. `make proto` builds the generators first.
set -euo pipefail
cd "$(dirname "$0")/.."

protos=sdk/wire/proto
if ! command -v protoc >/dev/null; then
	echo "proto.sh: protoc is missing: apt-get install protobuf-compiler" >&2
	exit 1
fi

# generate DIRECTORY
generate() {
	(cd "$protos" && find . -name '*.proto' -printf '%P\n' | sort) |
		xargs protoc --proto_path="$protos" \
			--plugin=bin/tools/protoc-gen-go --plugin=bin/tools/protoc-gen-go-grpc \
			--go_out="$1" --go_opt=paths=source_relative \
			--go-grpc_out="$1" --go-grpc_opt=paths=source_relative
}

case ${1:-} in
write)
	generate "$protos"
	;;
check)
	fresh=$(mktemp -d)
	trap 'rm -rf "$fresh"' EXIT
	generate "$fresh"
	# The version of protoc stands in a comment and may differ between machines.
	if ! diff -r -u -I '^// [-	 ]*protoc  *v' -x '*.proto' -x '*.md' "$protos" "$fresh"; then
		echo "proto.sh: the generated code is stale: run make proto and commit the result" >&2
		exit 1
	fi
	;;
*)
	echo "usage: proto.sh write|check" >&2
	exit 2
	;;
esac
