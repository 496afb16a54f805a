// SPDX-License-Identifier: GPL-3.0-or-later

package acl

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

func TestGuardGoesByTheListInForce(t *testing.T) {
	g := NewGuard(parse(t, "10.0.0.1", false))
	for _, c := range []struct {
		entries            []string
		first, second, own bool // who is allowed then
	}{
		{[]string{"10.0.0.1"}, true, false, false},
		{[]string{"10.0.0.2", "uid:5"}, false, true, true},
		{[]string{"gid:6"}, false, false, true},
		{nil, true, true, true},
		{[]string{"10.0.0.0/8"}, true, true, false},
	} {
		if err := g.Replace(c.entries); err != nil {
			t.Fatal(err)
		}
		first, second, own := g.Allows(tcp("10.0.0.1:1")), g.Allows(tcp("10.0.0.2:1")), g.Allows(local(5, 6))
		if first != c.first || second != c.second || own != c.own {
			t.Errorf("%q allows %v %v %v, want %v %v %v", c.entries, first, second, own, c.first, c.second, c.own)
		}
	}
}

func TestDefaultDenyOutlivesReplacement(t *testing.T) {
	for _, deny := range []bool{false, true} {
		g := NewGuard(parse(t, "", deny))
		for _, entries := range [][]string{nil, {"10.0.0.1"}, {"uid:1"}, nil} {
			if err := g.Replace(entries); err != nil {
				t.Fatal(err)
			}
		}
		if g.Allows(tcp("10.0.0.9:1")) == deny {
			t.Errorf("default deny %v: an empty list means something else after replacements", deny)
		}
	}
}

func TestBadEntriesLeaveTheListInForce(t *testing.T) {
	g := NewGuard(parse(t, "10.0.0.1", true))
	err := g.Replace([]string{"10.0.0.2", "10.0.0.3x"})
	var bad *BadEntry
	if !errors.As(err, &bad) || bad.Entry != "10.0.0.3x" {
		t.Errorf("the error is %v", err)
	}
	if !g.Allows(tcp("10.0.0.1:1")) || g.Allows(tcp("10.0.0.2:1")) {
		t.Error("the list has changed")
	}
}

// TestListsAreReplacedWhole: every list lets in 10.0.0.1 and one user, each list
// another one. Nobody sees parts of two lists, or none.
func TestListsAreReplacedWhole(t *testing.T) {
	g := NewGuard(parse(t, "10.0.0.1 uid:0", true))
	var done atomic.Bool
	var askers, replacers sync.WaitGroup
	for range 2 {
		askers.Go(func() {
			for !done.Load() {
				list := g.list.Load()
				users := 0
				for uid := range uint32(4) {
					if list.Allows(local(uid, 99)) {
						users++
					}
				}
				if users != 1 || !g.Allows(tcp("10.0.0.1:1")) || g.Allows(tcp("10.0.0.2:1")) {
					t.Errorf("%d users are let in by %+v", users, list)
					return
				}
			}
		})
	}
	for r := range 2 {
		replacers.Go(func() {
			for i := range 2000 {
				if err := g.Replace([]string{fmt.Sprintf("uid:%d", (i+r)%4), "10.0.0.1"}); err != nil {
					t.Error(err)
				}
				if i%16 == 0 {
					_ = g.Replace([]string{"bad"})
				}
			}
		})
	}
	replacers.Wait()
	done.Store(true)
	askers.Wait()
}
