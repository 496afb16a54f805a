// SPDX-License-Identifier: Apache-2.0

// Package socketfile makes Unix stream sockets that have a path, and takes the
// path away again.
//
//	l, err := socketfile.Listen(ctx, "/run/disk.sock", 0o660)
//	...
//	err = l.Close() // and the path is gone
//
// Package net can do most of this. What it leaves to its caller is here:
//
//   - A server that was killed leaves its path behind. Listen replaces a socket
//     that no process has open. One that is open is an error, and so is anything
//     that is not a socket: that is never removed. The server that is there does
//     not notice.
//   - The file has the mode that was asked for, whatever the umask, and nothing
//     wider at any moment.
//   - Close removes the path only if what is there is still this socket.
//   - A path that is too long is told so. The kernel would say "invalid argument".
//
// # Several servers at once
//
// Two servers that start together could both find the same stale socket, and the
// second one to remove it would remove what the first one has made meanwhile. So
// Listen holds a lock (flock) on the directory for that moment. It works only
// among programs that use this package, and it is not waited for longer than ten
// seconds.
//
// # Errors
//
// They do not name the path. Whoever calls knows what the socket is for, and puts
// both in front: "control socket /run/x: ...". They wrap the kernel's errno;
// EADDRINUSE says that the socket there is open.
//
// What this package does not do: sockets without a path ("abstract" ones), which
// have no mode and so are open to every process of the machine; and say who is at
// the other end.
package socketfile
