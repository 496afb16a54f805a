// SPDX-License-Identifier: Apache-2.0

// Package wire is both ends of the line between the core and a plugin, for
// hosts, for the SDK and for whoever wants to know how it works. A plugin's
// author needs none of it: sdk.ServeBackend and sdk.ServeTransport hide it.
//
// Three things travel, each on a path of its own:
//
//   - control: gRPC calls over go-plugin's private Unix socket, in the services
//     of proto/;
//   - descriptors: over a socketpair that the plugin inherits as its fd 3 (see
//     [DescriptorChannel]); its end-of-file also tells a plugin that its host
//     is gone;
//   - data: over a lane, agreed on when a disk is opened. Lane "rpc" carries
//     the bytes inside gRPC calls and is always there. With lane "file" the
//     host reads and writes by itself, on a descriptor that the plugin lends
//     (see [Lent]). The name of lane "ring" is reserved.
//
// Above this package nobody knows the lane: a session is written against
// [Queue], and [NewQueue] makes one from any Store.
package wire
