// SPDX-License-Identifier: GPL-3.0-or-later

package tcp

import (
	"strings"
	"testing"
)

func TestParseHostTellsLiteralsFromNames(t *testing.T) {
	for addr, want := range map[string]struct {
		text string
		name bool
	}{
		"127.0.0.1":           {"127.0.0.1", false},
		"0.0.0.0":             {"0.0.0.0", false},
		"::":                  {"::", false},
		"2001:DB8:0::1":       {"2001:db8::1", false},
		"::ffff:192.0.2.1":    {"192.0.2.1", false},
		"fe80::1%eth0":        {"fe80::1%eth0", false},
		"localhost":           {"localhost", true},
		"disk-7.example.org.": {"disk-7.example.org.", true},
		"_nbd.example":        {"_nbd.example", true},
		"7disks":              {"7disks", true},
	} {
		h, err := parseHost(addr)
		if err != nil {
			t.Errorf("%q: %v", addr, err)
			continue
		}
		if h.String() != want.text || h.isName() != want.name {
			t.Errorf("%q is taken for %q (a name: %t), want %q (%t)", addr, h, h.isName(), want.text, want.name)
		}
	}
}

func TestParseHostRefusesWhatCannotBeAnAddress(t *testing.T) {
	for _, addr := range []string{"", " ", "1.2.3", "1.2.3.4.5", "127.0.0.1:80", "[::1]", "::1:80:x", "fe80::1", "a b",
		"-x", ".x", "a/b", "a%eth0", "tab\t", "naïve.example", strings.Repeat("a", maxName+1), "127.0.0.1\n", "...",
		"::% ", "fe80::1%", "fe80::1%a/b", "fe80::1%an-interface-too-long"} {
		if h, err := parseHost(addr); err == nil {
			t.Errorf("%q is taken for %q", addr, h)
		}
	}
}

// FuzzParseHost: what is accepted is either kind, survives a second reading,
// and is safe to put in a log line.
func FuzzParseHost(f *testing.F) {
	for _, seed := range []string{"", "127.0.0.1", "::", "fe80::1%eth0", "::% ", "[::1]:4777", "localhost", "::ffff:1.2.3.4%x", "256.1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, addr string) {
		h, err := parseHost(addr)
		if err != nil {
			return
		}
		if h.isName() == h.ip.IsValid() {
			t.Fatalf("%q is both a name and a literal, or neither: %+v", addr, h)
		}
		again, err := parseHost(h.String())
		if err != nil || again != h {
			t.Fatalf("%q reads as %q, and that as %q, %v", addr, h, again, err)
		}
		for _, c := range []byte(h.String()) {
			if c <= ' ' || c >= 0x7f {
				t.Fatalf("%q is accepted with byte %#x in it", addr, c)
			}
		}
	})
}
