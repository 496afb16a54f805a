// SPDX-License-Identifier: GPL-3.0-or-later

// Package sandbox takes from the process that it runs in what the process does not
// need, for good, so that whoever takes the process over by a bug in it gets little.
//
//	report, err := sandbox.Enter(sandbox.Policy{
//		Paths:    []sandbox.Path{{Path: "/srv/web1.img", Access: sandbox.Disk}},
//		Internet: false,
//	})
//
// A [Policy] names what stays allowed. Four parts of the kernel hold everything else
// back, on all threads, the later ones as well, and in all children:
//
//   - Landlock: files, folders, TCP, abstract sockets, signals. It knows paths, and
//     sees only what is opened after Enter: descriptors that are open stay usable.
//   - seccomp: what Landlock has no word for. Programs, processes, sockets of other
//     families, file modes and owners, and the calls that only administrators need.
//     Such a call fails with EPERM.
//   - capabilities: what is left of root's.
//   - resource limits: descriptors, memory, no core dumps (a disk's contents are in
//     them).
//
// A kernel may lack the first two, or be older than one of their features. Enter then
// does what the kernel can do, and the [Report] says what that was: a server on such a
// kernel is as safe as it was before there were sandboxes, and its operator has been
// told.
//
// The rights of Landlock are those of ABI 6 (Linux 6.12): with a newer kernel nothing
// more is forbidden than what the tests have seen.
package sandbox
