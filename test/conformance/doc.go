// SPDX-License-Identifier: GPL-3.0-or-later

// Package conformance runs the suites of sdk/storetest and sdk/transporttest
// against plugins as they are shipped: built binaries that a host starts. The stock
// backends are used as sessions use them, through a queue, on each lane. The same
// suites run in process and over the wire beside each plugin's code.
package conformance
