// SPDX-License-Identifier: GPL-3.0-or-later

// Package stock is what the plugins that come with flexnbd have in common.
package stock

import "github.com/flexnbd/flexnbd/sdk"

// About says who made them.
var About = sdk.About{
	Vendor:   "The flexnbd project",
	Homepage: "https://github.com/flexnbd/flexnbd",
	License:  "GPL-3.0-or-later",
}
