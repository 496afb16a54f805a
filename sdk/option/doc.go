// SPDX-License-Identifier: Apache-2.0

// Package option is how a plugin declares the options that operators may give it:
//
//	sdk.Backend{
//		Name: "http",
//		Options: option.Set{
//			{Name: "block", Type: option.Size, Default: "256K", Min: 4 << 10, Max: 16 << 20, Help: "how much one request fetches"},
//			{Name: "timeout", Type: option.Duration, Default: "30s", Help: "how long one request may take"},
//		},
//		...
//
// as they are then written after the plugin's name:
//
//	flexnbd serve --backend http,block=1M,timeout=5s ...
//
// flexnbd shows the declaration in `flexnbd plugin info` and checks what the operator
// wrote before the disk is opened: names, types, bounds, and what is required. The
// plugin's end of the wire checks once more, since not every host has to be flexnbd,
// and adds the defaults. So Open gets [Values] that are complete and right:
//
//	block := disk.Options.Size("block")
//
// The package knows nothing of plugins; it is declarations, texts and values.
package option
