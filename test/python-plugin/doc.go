// SPDX-License-Identifier: GPL-3.0-or-later

// Package pythonplugin proves that docs/plugin-protocol.md and the .proto files are
// enough to write a plugin from: flexnbd-backend-python, beside this file, is a
// backend in Python that was written from them alone, and the tests hold it to
// what every backend is held to.
//
// They run generate.sh, which puts the script and what protoc makes of the .proto
// files into a folder, and flexnbd then starts the script by its path. To try it:
//
//	test/python-plugin/generate.sh /tmp/python
//	flexnbd serve --backend /tmp/python/flexnbd-backend-python --file 64M ...
//
// It needs the Debian packages python3-grpcio, python3-protobuf and
// protobuf-compiler, and the tests fail without them.
//
// Whatever the script has to know and the page does not say is a fault of the page.
package pythonplugin
