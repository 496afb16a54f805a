// SPDX-License-Identifier: GPL-3.0-or-later

package acl

import (
	"errors"
	"os/user"
	"slices"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// tcp and local are peers as the stock transports describe them.
func tcp(address string) transport.Peer {
	return transport.Peer{Network: "tcp", Address: address}
}

func local(uid, gid uint32) transport.Peer {
	return transport.Peer{Network: "unix", Address: "/run/x.sock", Cred: &transport.Cred{PID: 1, UID: uid, GID: gid}}
}

func parse(t testing.TB, entries string, defaultDeny bool) List {
	t.Helper()
	l, err := Parse(strings.Fields(entries), defaultDeny)
	if err != nil {
		t.Fatalf("Parse(%q): %v", entries, err)
	}
	return l
}

func TestListAllows(t *testing.T) {
	for _, c := range []struct {
		entries string
		deny    bool
		peer    transport.Peer
		want    bool
	}{
		{"", false, tcp("10.0.0.1:1"), true},
		{"", true, tcp("10.0.0.1:1"), false},
		{"", false, local(0, 0), true},
		{"", true, local(0, 0), false},

		{"10.0.0.1", false, tcp("10.0.0.1:99"), true},
		{"10.0.0.1", false, tcp("10.0.0.2:99"), false},
		{"10.0.0.1", true, tcp("10.0.0.1:99"), true},
		{"10.0.0.1", false, tcp("[::ffff:10.0.0.1]:99"), true},
		{"::ffff:10.0.0.1", false, tcp("10.0.0.1:99"), true},
		{"::ffff:10.0.0.0/104", false, tcp("10.9.9.9:99"), true},
		{"10.1.2.3/8", false, tcp("10.9.9.9:99"), true},
		{"10.0.0.0/8", false, tcp("11.0.0.1:99"), false},
		{"::1", false, tcp("[::1]:99"), true},
		{"::1", false, tcp("127.0.0.1:99"), false},
		{"fe80::/10", false, tcp("[fe80::1%eth0]:99"), true},
		{"fe80::1%eth0", false, tcp("[fe80::1]:99"), true},
		{"0.0.0.0/0", false, tcp("[::1]:99"), false},
		{"0.0.0.0/0", false, tcp("1.2.3.4:99"), true},
		{"::/0", false, tcp("[::1]:99"), true},
		{"::/0", false, tcp("[::ffff:10.0.0.1]:99"), false},
		{"10.0.0.1 ::1", false, tcp("[::1]:99"), true},
		{"10.0.0.1", false, tcp(""), false},
		{"10.0.0.1", false, transport.Peer{Network: "tls", Address: "10.0.0.1:99"}, true},

		{"uid:1000", false, local(1000, 7), true},
		{"uid:1000", true, local(1000, 7), true},
		{"uid:1000", false, local(1001, 1000), false},
		{"uid:1000", false, local(0, 0), false},
		{"uid:0", false, local(0, 7), true},
		{"uid:4294967294", false, local(4294967294, 7), true},
		{"gid:1000", false, local(7, 1000), true},
		{"gid:1000", false, local(1000, 7), false},
		{"gid:0", false, local(7, 0), true},
		{"uid:1 gid:2", false, local(1, 9), true},
		{"uid:1 gid:2", false, local(9, 2), true},
		{"uid:1 gid:2", false, local(2, 1), false},
		{"uid:1 uid:2", false, local(2, 9), true},

		// Neither kind lets in peers of the other.
		{"10.0.0.1", false, local(0, 0), false},
		{"0.0.0.0/0 ::/0", false, local(0, 0), false},
		{"uid:0 gid:0", false, tcp("127.0.0.1:99"), false},
		{"10.0.0.1 uid:5", false, tcp("10.0.0.1:99"), true},
		{"10.0.0.1 uid:5", false, local(5, 9), true},

		// A local peer may choose its name, and a transport might not know
		// who it is.
		{"10.0.0.1", false, transport.Peer{Network: "unix", Address: "10.0.0.1:99"}, false},
		{"10.0.0.1", false, transport.Peer{Network: "own", Address: "10.0.0.1:99", Cred: &transport.Cred{}}, false},
		{"uid:0 gid:0", false, transport.Peer{Network: "unix", Address: "/run/x.sock"}, false},
		{"", false, transport.Peer{Network: "unix", Address: "/run/x.sock"}, true},
	} {
		if got := parse(t, c.entries, c.deny).Allows(c.peer); got != c.want {
			t.Errorf("list %q, default deny %v, peer %+v %+v: %v, want %v", c.entries, c.deny, c.peer, c.peer.Cred, got, c.want)
		}
	}
}

func TestZeroListAllowsEveryone(t *testing.T) {
	if !(List{}).Allows(tcp("10.0.0.1:1")) || !(List{}).Allows(local(1, 1)) {
		t.Error("it does not")
	}
}

func TestNamesStandForTheirNumbers(t *testing.T) {
	u, err := user.LookupId("0")
	if err != nil {
		t.Fatal(err)
	}
	g, err := user.LookupGroupId("0")
	if err != nil {
		t.Fatal(err)
	}
	if l := parse(t, "uid:"+u.Username, false); !l.Allows(local(0, 5)) || l.Allows(local(5, 0)) {
		t.Errorf("uid:%s: %+v", u.Username, l)
	}
	if l := parse(t, "gid:"+g.Name, false); !l.Allows(local(5, 0)) || l.Allows(local(0, 5)) {
		t.Errorf("gid:%s: %+v", g.Name, l)
	}
}

func TestBadEntryIsNamed(t *testing.T) {
	const form = "give an IP address, a network"
	for _, c := range []struct{ entry, says string }{
		{"", form},
		{"x", form},
		{"10.0.0", form},
		{"10.0.0.0/33", form},
		{"::1/129", form},
		{"10.0.0.1/", form},
		{"10.0.0.1:80", form},
		{"-v", form},
		{"::ffff:10.0.0.0/90", "wider than IPv4"},
		{"uid", form},
		{"uid:", form},
		{"gid:", form},
		{"UID:0", form},
		{"pid:1", form},
		{"uid:1 ", form},
		{"uid:1:2", form},
		{"uid:a\nb", form},
		{"uid:a\x00", form},
		{"uid:" + strings.Repeat("a", maxName+1), form},
		{"uid:01", `"01" is no number from 0 to 4294967294`},
		{"uid:4294967295", "no number"},
		{"gid:4294967296", "no number"},
		{"uid:99999999999999999999", "no number"},
		{"uid:-1", "knows no user"},
		{"uid:no-such-user-here", "this machine knows no user of that name"},
		{"gid:no-such-group-here", "this machine knows no group of that name"},
	} {
		l, err := Parse([]string{"127.0.0.1", c.entry, "worse"}, false)
		var bad *BadEntry
		if !errors.As(err, &bad) || bad.Entry != c.entry {
			t.Errorf("entry %q: list %+v, error %v", c.entry, l, err)
			continue
		}
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("entry %q: the error does not say %q: %v", c.entry, c.says, err)
		}
	}
}

// FuzzParse: an entry that is accepted lets in whom it names, and no peer of the
// other kind.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "::1/64", "::ffff:1.2.3.4/100", "fe80::1%x", "/", "uid:0", "gid:4294967294", "uid:root", "gid:", "uid:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		l, err := Parse([]string{entry}, true)
		if err != nil {
			if bad := new(BadEntry); !errors.As(err, &bad) || bad.Entry != entry {
				t.Fatalf("%q: %v", entry, err)
			}
			return
		}
		if len(l.networks)+len(l.uids)+len(l.gids) != 1 {
			t.Fatalf("%q is %+v", entry, l)
		}
		var named, others []transport.Peer
		everyNetwork := []transport.Peer{tcp("10.0.0.1:1"), tcp("[::1]:1")}
		for _, n := range l.networks {
			at := n.Addr().String()
			if n.Addr().Is6() {
				at = "[" + at + "]"
			}
			named, others = append(named, tcp(at+":1")), append(others, local(0, 0))
		}
		for _, uid := range l.uids {
			named, others = append(named, local(uid, ^uid)), append(everyNetwork, local(^uid, uid))
		}
		for _, gid := range l.gids {
			named, others = append(named, local(^gid, gid)), append(everyNetwork, local(gid, ^gid))
		}
		for _, peer := range named {
			if !l.Allows(peer) {
				t.Errorf("%q does not allow %+v %+v", entry, peer, peer.Cred)
			}
		}
		for _, peer := range others {
			if l.Allows(peer) {
				t.Errorf("%q allows %+v %+v", entry, peer, peer.Cred)
			}
		}
	})
}

func BenchmarkAllows(b *testing.B) {
	l := parse(b, "10.0.0.0/8 192.168.0.0/16 fd00::/8 uid:1 gid:2", false)
	peer := tcp("[::ffff:172.16.0.1]:50000")
	b.ReportAllocs()
	for b.Loop() {
		if l.Allows(peer) {
			b.Fatal("allowed")
		}
	}
}

func TestNumeric(t *testing.T) {
	entries := []string{"uid:root", "gid:root", "uid:4711", "10.0.0.0/8", "uid:nosuchuser", "gid:", "rubbish", "::1"}
	want := []string{"uid:0", "gid:0", "uid:4711", "10.0.0.0/8", "uid:nosuchuser", "gid:", "rubbish", "::1"}
	if got := Numeric(entries); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if entries[0] != "uid:root" {
		t.Error("the caller's entries have changed")
	}
}
