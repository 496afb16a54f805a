// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/option"
)

func main() {
	sdk.ServeBackend(sdk.Backend{
		Name:    "xts",
		Version: "1.0.0",
		About:   sdk.About{License: "Apache-2.0"},
		Options: option.Set{{
			Name:     "key",
			Type:     option.Path,
			Required: true,
			Help:     "the key file: 64 bytes or 128 hexadecimal digits, for its owner only",
		}},
		Open: open,
	})
}
