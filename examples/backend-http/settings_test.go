// SPDX-License-Identifier: Apache-2.0

package main

import (
	"syscall"
	"testing"
	"time"
)

func TestOptions(t *testing.T) {
	if err := options.Check(); err != nil {
		t.Fatal(err)
	}
	parse := func(given map[string]string) (settings, error) {
		v, err := options.Parse(given)
		if err != nil {
			t.Fatal(err)
		}
		return settingsFrom(v)
	}
	s, err := parse(nil)
	want := settings{256 << 10, 64 << 20, 4, 8, 30 * time.Second, 3, 200 * time.Millisecond}
	if err != nil || s != want {
		t.Errorf("by default %+v, %v; want %+v", s, err, want)
	}
	_, err = parse(map[string]string{"block": "300K"})
	wantError(t, err, syscall.EINVAL, "block=300K is no power of two")
	_, err = parse(map[string]string{"block": "16M", "cache": "32M"})
	wantError(t, err, syscall.EINVAL, "cache=32M is less than 4 blocks of 16M", "cache=64M")
	for _, given := range []map[string]string{
		{"block": "2K"}, {"block": "32M"}, {"cache": "0"}, {"readahead": "-1"}, {"connections": "0"}, {"timeout": "0s"}, {"retries": "-1"}, {"header-file": "x"},
	} {
		if _, err := options.Parse(given); err == nil {
			t.Errorf("%v is allowed", given)
		}
	}
}
