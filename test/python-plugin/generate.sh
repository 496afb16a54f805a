#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# generate.sh FOLDER: puts the plugin into the folder, with the code that protoc
# makes of the .proto files, so that `flexnbd serve --backend FOLDER/flexnbd-backend-python
# --file 64M` can run it.
set -eu
folder=${1:?usage: generate.sh FOLDER}
here=$(dirname "$0")
protos=$here/../../sdk/wire/proto
mkdir -p "$folder"
protoc -I "$protos" --python_out="$folder" plugin/v1/plugin.proto backend/v1/backend.proto
install -m 755 "$here/flexnbd-backend-python" "$folder/"
