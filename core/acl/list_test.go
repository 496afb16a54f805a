// SPDX-License-Identifier: GPL-3.0-or-later

package acl

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

func TestListAllows(t *testing.T) {
	for _, c := range []struct {
		entries string
		deny    bool
		peer    string
		want    bool
	}{
		{"", false, "10.0.0.1:1", true},
		{"", true, "10.0.0.1:1", false},
		{"", false, "/run/x.sock", true},
		{"", true, "/run/x.sock", false},
		{"10.0.0.1", false, "10.0.0.1:99", true},
		{"10.0.0.1", false, "10.0.0.2:99", false},
		{"10.0.0.1", true, "10.0.0.1:99", true},
		{"10.0.0.1", false, "[::ffff:10.0.0.1]:99", true},
		{"::ffff:10.0.0.1", false, "10.0.0.1:99", true},
		{"::ffff:10.0.0.0/104", false, "10.9.9.9:99", true},
		{"10.1.2.3/8", false, "10.9.9.9:99", true},
		{"10.0.0.0/8", false, "11.0.0.1:99", false},
		{"::1", false, "[::1]:99", true},
		{"::1", false, "127.0.0.1:99", false},
		{"fe80::/10", false, "[fe80::1%eth0]:99", true},
		{"fe80::1%eth0", false, "[fe80::1]:99", true},
		{"0.0.0.0/0", false, "[::1]:99", false},
		{"0.0.0.0/0", false, "1.2.3.4:99", true},
		{"::/0", false, "[::1]:99", true},
		{"10.0.0.1 ::1", false, "[::1]:99", true},
		{"10.0.0.1", false, "/run/x.sock", false},
		{"10.0.0.1", false, "", false},
	} {
		l, err := Parse(strings.Fields(c.entries), c.deny)
		if err != nil {
			t.Fatalf("Parse(%q): %v", c.entries, err)
		}
		if got := l.Allows(transport.Peer{Address: c.peer}); got != c.want {
			t.Errorf("list %q, default deny %v, peer %q: %v, want %v", c.entries, c.deny, c.peer, got, c.want)
		}
	}
}

func TestBadEntryIsNamed(t *testing.T) {
	for _, entry := range []string{"", "x", "10.0.0", "10.0.0.0/33", "::1/129", "10.0.0.1/", "::ffff:10.0.0.0/90", "10.0.0.1:80", "-v"} {
		_, err := Parse([]string{"127.0.0.1", entry}, false)
		var bad *BadEntry
		if !errors.As(err, &bad) || bad.Entry != entry {
			t.Errorf("entry %q: error %v", entry, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "::1/64", "::ffff:1.2.3.4/100", "fe80::1%x", "/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		l, err := Parse([]string{entry}, true)
		if err != nil {
			return
		}
		// Every entry that is accepted lets its own first address in.
		if !l.Allows(transport.Peer{Address: netip.AddrPortFrom(l.entries[0].Addr(), 1).String()}) {
			t.Errorf("%q does not allow %v", entry, l.entries[0].Addr())
		}
	})
}
