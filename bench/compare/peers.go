// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import "fmt"

// peers are the servers that Debian has, each with the options that make it fast here,
// on two CPUs. The extra ones are what they were compared with, in one run of all
// scenarios; docs/performance.md has what that showed.
var peers = []server{
	{
		// The file plugin, which reads and writes with one pread or pwrite for each
		// request, through the page cache (cache=default, which is the default). No
		// filters. 4 threads for each connection contend less for its locks than 16.
		name: "nbdkit", binary: "nbdkit", debian: "nbdkit", version: []string{"--version"},
		arguments: nbdkit("4"),
	},
	{
		// The default.
		name: "nbdkit-t16", binary: "nbdkit", debian: "nbdkit", version: []string{"--version"}, extra: true,
		arguments: nbdkit("16"),
	},
	{
		// io_uring answers from the page cache without a hand-off to a thread.
		name: "qemu-nbd", binary: "qemu-nbd", debian: "qemu-utils", version: []string{"--version"},
		arguments: qemu("io_uring"),
	},
	{
		// The default.
		name: "qemu-nbd-threads", binary: "qemu-nbd", debian: "qemu-utils", version: []string{"--version"}, extra: true,
		arguments: qemu("threads"),
	},
	{
		// splice saves a copy where it can, and falls back to read and write.
		name: "nbd-server", binary: "nbd-server", debian: "nbd-server", version: []string{"-V"}, export: "disk", daemon: true,
		arguments: nbdServer("splice = true\n"),
	},
	{
		// The default.
		name: "nbd-server-copy", binary: "nbd-server", debian: "nbd-server", version: []string{"-V"}, export: "disk", daemon: true, extra: true,
		arguments: nbdServer(""),
	},
}

func nbdkit(threads string) func(place) ([]string, error) {
	return fixed("--foreground", "--ipaddr", "127.0.0.1", "--port", "PORT", "--threads", threads, "file", "file=IMAGE", "cache=default")
}

// qemu: writeback is the page cache with a flush when the client says so, as with the
// others. --persistent stays after the first client has left, --shared allows several.
func qemu(aio string) func(place) ([]string, error) {
	return fixed("--format=raw", "--persistent", "--shared=32", "--cache=writeback", "--aio="+aio, "--bind=127.0.0.1", "--port=PORT", "IMAGE")
}

// nbdServer writes a configuration: neither sync, which would flush after each
// write, nor anything that copies. Flush and FUA are offered, as by the others. In the
// foreground (-d) it would serve a single connection and end.
func nbdServer(more string) func(place) ([]string, error) {
	return func(p place) ([]string, error) {
		// user and group stay those of the caller.
		config, err := p.write("nbd-server.conf", fmt.Sprintf(
			"[generic]\nlistenaddr = 127.0.0.1\nport = %s\n%s[disk]\nexportname = %s\nflush = true\nfua = true\n", p.port, more, p.image))
		return []string{"-C", config, "-p", p.pidFile()}, err
	}
}

// oldFlexnbd is flexnbd 0.x, the predecessor in C, at the path that PEER_FLEXNBD
// names. It knows only the oldstyle handshake.
func oldFlexnbd(binary string) server {
	return server{
		name: "flexnbd-0.x", binary: binary,
		arguments: fixed("serve", "--addr", "127.0.0.1", "--port", "PORT", "--file", "IMAGE"),
	}
}
