// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"testing"
	"testing/synctest"
)

func TestClassFitsItsRequest(t *testing.T) {
	for _, c := range []struct{ n, size int }{
		{1, 4096}, {4096, 4096}, {4097, 8192}, {65536, 65536}, {65537, 131072}, {MaxPayload - 1, MaxPayload}, {MaxPayload, MaxPayload},
	} {
		if got := classSize(classOf(c.n)); got != c.size {
			t.Errorf("%d bytes take %d, want %d", c.n, got, c.size)
		}
		var p pool
		pl := p.get(c.n)
		if len(pl.Bytes) != c.n || cap(pl.Bytes) != c.size {
			t.Errorf("payload of %d bytes has len %d cap %d", c.n, len(pl.Bytes), cap(pl.Bytes))
		}
	}
}

func TestImpossiblePayloadPanics(t *testing.T) {
	for _, n := range []int{-1, 0, MaxPayload + 1} {
		panics(t, func() { classOf(n) })
	}
	panics(t, func() { new(pool).put(&Payload{Bytes: make([]byte, 100)}) })
	panics(t, func() { new(pool).put(&Payload{Bytes: make([]byte, 8192)[1:]}) })
}

func panics(t *testing.T, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	f()
}

func TestPayloadUsedLastIsUsedNext(t *testing.T) {
	var p pool
	a, b := p.get(5000), p.get(5000)
	p.put(a)
	p.put(b)
	if got := p.get(8192); got != b {
		t.Fatal("not the payload used last")
	} else if len(got.Bytes) != 8192 {
		t.Fatalf("len %d, the earlier length stuck", len(got.Bytes))
	}
	if got := p.get(4097); got != a {
		t.Fatal("not the one used before")
	}
	if got := p.get(4096); cap(got.Bytes) != 4096 {
		t.Fatal("classes were mixed up")
	}
}

func TestShortenedPayloadIsTakenBack(t *testing.T) {
	var p pool
	a := p.get(4096)
	a.Bytes = a.Bytes[:7]
	p.put(a)
	if got := p.get(100); got != a || len(got.Bytes) != 100 {
		t.Fatal("shortened payload was lost")
	}
}

func TestIdleMemoryIsGivenBack(t *testing.T) {
	// In a bubble, so that the real timer never runs beside another test.
	synctest.Test(t, idleMemoryIsGivenBack)
}

func idleMemoryIsGivenBack(t *testing.T) {
	var p pool
	c := &p.classes[classOf(4096)]
	var all []*Payload
	for range 10 {
		all = append(all, p.get(4096))
	}
	for _, pl := range all {
		p.put(pl)
	}
	c.trim() // starts the interval: all ten lie there
	hot := p.get(4096)
	hot2 := p.get(4096)
	p.put(hot2)
	p.put(hot)
	c.trim() // two of ten were used in it
	if len(c.idle) != 2 || c.idle[0] != hot2 || c.idle[1] != hot {
		t.Fatalf("%d kept, want the two in use", len(c.idle))
	}
	for _, gone := range c.idle[:10][2:] {
		if gone != nil {
			t.Fatal("the stack still refers to payloads that it let go")
		}
	}
	if !c.armed {
		t.Fatal("nothing will give the last two back")
	}
	c.trim()
	if len(c.idle) != 0 || c.armed {
		t.Fatalf("%d kept, armed %v, at rest", len(c.idle), c.armed)
	}
}

func TestIdleMemoryIsCapped(t *testing.T) {
	var p pool
	for range 2 * maxIdle / MaxPayload {
		p.put(&Payload{Bytes: make([]byte, MaxPayload)})
	}
	if n := len(p.classes[numClasses-1].idle); n != maxIdle/MaxPayload {
		t.Fatalf("%d payloads kept, want %d", n, maxIdle/MaxPayload)
	}
}

func BenchmarkBorrowReturn(b *testing.B) {
	q := NewQueue(b.Context(), nil, nil)
	b.ReportAllocs()
	for b.Loop() {
		q.Return(q.TryBorrow(4096))
	}
}
