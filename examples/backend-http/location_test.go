// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"syscall"
	"testing"
)

func TestLocations(t *testing.T) {
	for s, shown := range map[string]string{
		"http://h/a":                        "http://h/a",
		"HTTPS://h:8443/a%20b":              "https://h:8443/a%20b",
		"http://me:secret@h/a?key=secret#x": "http://me:xxxxx@h/a?...",
		"http://[::1]:80/":                  "http://[::1]:80/",
	} {
		l, err := parseLocation(s)
		if err != nil || l.String() != shown {
			t.Errorf("%s: %v, %v, want %s", s, l, err, shown)
		}
	}
	for s, words := range map[string]string{
		"":                           "no image is given",
		"/srv/a.img":                 "--file /srv/a.img is no http or https URL",
		"ftp://me:secret@h/a":        "--file ftp://me:xxxxx@h/a is no http or https URL",
		"http:///a":                  "names no host",
		"http://:80/a":               "names no host",
		"http://h:x/a":               "invalid port",
		"http://me:secret/x@h:y/a":   "have to be escaped",
		"http://me:secret%zz@h/a":    "have to be escaped",
		"http://h/\x7f":              "invalid control character",
		"http://secret@h:secret/\n?": "can't be read",
	} {
		_, err := parseLocation(s)
		wantError(t, err, syscall.EINVAL, words, "write for example --file https://")
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", s, err)
		}
	}
}
