// SPDX-License-Identifier: GPL-3.0-or-later

package unixsocket

import (
	"github.com/flexnbd/flexnbd/plugins/stock"
	"github.com/flexnbd/flexnbd/sdk"
)

// Plugin describes the transport to the SDK: all that a main needs.
func Plugin() sdk.Transport {
	return sdk.Transport{Name: "unix", Version: sdk.Version, About: stock.About, Transport: New()}
}
