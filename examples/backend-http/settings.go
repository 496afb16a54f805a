// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"syscall"
	"time"

	"github.com/flexnbd/flexnbd/sdk/option"
)

// leastBlocks is the smallest cache, in blocks. With fewer, read-ahead would drive
// out what is being read.
const leastBlocks = 4

// options is what an operator may write behind the backend's name. The SDK checks it
// before open is called, and adds the defaults.
var options = option.Set{
	{Name: "block", Type: option.Size, Default: "256K", Min: 4 << 10, Max: 16 << 20, Help: "how much one request fetches; a power of two"},
	{Name: "cache", Type: option.Size, Default: "64M", Min: leastBlocks * 4 << 10, Max: 1 << 40, Help: "memory for blocks that were fetched; at least four blocks"},
	{Name: "readahead", Type: option.Int, Default: "4", Min: 0, Max: 1024, Help: "how many blocks to fetch ahead of a client that reads in sequence; 0 for none"},
	{Name: "connections", Type: option.Int, Default: "8", Min: 1, Max: 64, Help: "how many requests to have under way at a time"},
	{Name: "timeout", Type: option.Duration, Default: "30s", Min: int64(time.Millisecond), Max: int64(time.Hour), Help: "how long one request may take, with all of its answer"},
	{Name: "retries", Type: option.Int, Default: "3", Min: 0, Max: 100, Help: "how often to repeat a request after a 5xx answer, a timeout or a cut connection"},
}

// settings are the options' values, complete and possible.
type settings struct {
	block       int64 // bytes
	cache       int64 // bytes
	readahead   int64 // blocks
	connections int
	timeout     time.Duration
	retries     int
	pause       time.Duration // before the first repetition
}

// settingsFrom checks what a declaration can't say: which values go together.
func settingsFrom(v option.Values) (settings, error) {
	s := settings{
		block: v.Size("block"), cache: v.Size("cache"), readahead: v.Int("readahead"),
		connections: int(v.Int("connections")), timeout: v.Duration("timeout"), retries: int(v.Int("retries")),
		pause: 200 * time.Millisecond,
	}
	switch {
	case s.block&(s.block-1) != 0:
		return s, &failure{errno: syscall.EINVAL, words: fmt.Sprintf(
			"option block=%s is no power of two; give it one, such as block=256K", option.FormatSize(s.block))}
	case s.cache < leastBlocks*s.block:
		return s, &failure{errno: syscall.EINVAL, words: fmt.Sprintf(
			"option cache=%s is less than %d blocks of %s; give at least cache=%s, or smaller blocks",
			option.FormatSize(s.cache), leastBlocks, option.FormatSize(s.block), option.FormatSize(leastBlocks*s.block))}
	}
	return s, nil
}
