// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t testing.TB, size int64) store.Store {
		s := usual()
		s.readahead = 4
		return openForSuite(t, newServer(t, make([]byte, size)), s)
	})
}

// openForSuite leaves it to the suite to close the disk.
func openForSuite(t testing.TB, s *server, with settings) store.Store {
	d, err := openStore(t.Context(), s.URL+"/image", with, quiet{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The cache is much smaller than the image, so that buffers are used again all the time.
func TestReadersGetTheImage(t *testing.T) {
	content := noise(80*testBlock + 123)
	for _, blocks := range []int64{leastBlocks, 17, 200} {
		s := usual()
		s.cache, s.readahead = blocks*testBlock, 5
		d := openTest(t, newServer(t, content), s)
		var readers sync.WaitGroup
		for range 12 {
			readers.Go(func() {
				for range 60 {
					length := 1 + rand.IntN(1<<rand.IntN(17))
					read(t, d, content, rand.IntN(len(content)-length+1), length)
				}
			})
			readers.Go(func() { // in sequence, and now and then with little patience
				for off := 0; off < len(content); off += 3000 {
					read(t, d, content, off, min(3000, len(content)-off))
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(300))*time.Microsecond)
					p := make([]byte, min(9000, len(content)-off))
					if err := d.ReadAt(ctx, p, int64(off)); err == nil && !bytes.Equal(p, content[off:off+len(p)]) {
						t.Errorf("%d bytes at %d are not the image's", len(p), off)
					}
					cancel()
				}
			})
		}
		readers.Wait()
		read(t, d, content, 0, len(content))
	}
}

func TestImageOfNoBytes(t *testing.T) {
	s := newServer(t, nil)
	if size := openTest(t, s, usual()).Info().Size; size != 0 {
		t.Errorf("size is %d", size)
	}
	s.answer(func(w http.ResponseWriter, _ *http.Request) { // as nginx does
		w.Header().Set("Content-Range", "bytes */0")
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
	})
	if size := openTest(t, s, usual()).Info().Size; size != 0 {
		t.Errorf("size is %d", size)
	}
}

func TestIdentityTellsVersionsApart(t *testing.T) {
	content := noise(testBlock)
	s := newServer(t, content)
	a, b := openTest(t, s, usual()).Info(), openTest(t, s, usual()).Info()
	if a != b || a.Identity == "" {
		t.Errorf("of the same image, facts are %+v and %+v", a, b)
	}
	s.change(content, `"two"`)
	if c := openTest(t, s, usual()).Info(); c.Identity == a.Identity {
		t.Errorf("of another version, identity is still %s", c.Identity)
	}
}

func TestWritesAreRefusedInWords(t *testing.T) {
	d := openTest(t, newServer(t, noise(testBlock)), usual())
	for _, err := range []error{d.WriteAt(t.Context(), []byte{1}, 0, 0), d.PunchHole(t.Context(), 0, 1, 0)} {
		if !errors.Is(err, store.ErrReadOnly) || !strings.Contains(err.Error(), "/image is only read") {
			t.Errorf("error is %v", err)
		}
	}
}

func TestSeveralReadersOfOneBlockMakeOneRequest(t *testing.T) {
	content := noise(8 * testBlock)
	s := newServer(t, content)
	d := openTest(t, s, usual())
	s.requests.Store(0)
	arrived, goOn := make(chan struct{}), make(chan struct{})
	s.answer(func(w http.ResponseWriter, q *http.Request) {
		close(arrived) // a second request would panic, and be seen as a failure
		<-goOn
		s.image(w, q)
	})
	var readers sync.WaitGroup
	for i := range 20 {
		readers.Go(func() { read(t, d, content, testBlock+i, 100) })
	}
	<-arrived
	// One that gives up does not take the others with it.
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error)
	go func() { gaveUp <- d.ReadAt(ctx, make([]byte, 10), testBlock) }()
	waitFor(t, func() bool { d.cache.mu.Lock(); defer d.cache.mu.Unlock(); return d.cache.blocks[1].wanted == 21 })
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up got %v", err)
	}
	close(goOn)
	readers.Wait()
	if n := s.requests.Load(); n != 1 {
		t.Errorf("%d requests for one block", n)
	}
}

// A request that nobody waits for any more is called off, and who comes later is not
// told of it.
func TestRequestThatNobodyWantsIsCalledOff(t *testing.T) {
	content := noise(8 * testBlock)
	s := newServer(t, content)
	d := openTest(t, s, usual())
	arrived, hung := make(chan struct{}), make(chan struct{})
	s.answer(func(_ http.ResponseWriter, q *http.Request) {
		close(arrived)
		<-q.Context().Done()
		close(hung)
	})
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error)
	go func() { gaveUp <- d.ReadAt(ctx, make([]byte, 10), 0) }()
	<-arrived
	began := time.Now()
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("giving up took %v", took)
	}
	s.answer(nil)
	read(t, d, content, 0, 10)
	select {
	case <-hung:
	case <-time.After(5 * time.Second): // less than the request's own timeout
		t.Error("the request goes on although nobody waits for it")
	}
}

// What was begun ahead for readers that gave up does not pile up.
func TestReadAheadOfManyIsBounded(t *testing.T) {
	s := newServer(t, noise(64*testBlock))
	d := openTest(t, s, usual())
	s.answer(func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() })
	for i := range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_ = d.ReadAt(ctx, make([]byte, 16*testBlock), int64(i)*16*testBlock)
		cancel()
	}
	d.cache.mu.Lock()
	defer d.cache.mu.Unlock()
	if d.cache.ahead != 8 {
		t.Errorf("%d blocks are under way that nobody waits for, want 8, one for each connection", d.cache.ahead)
	}
}

func TestCloseDoesNotWaitForAServerThatHangs(t *testing.T) {
	content := noise(32 * testBlock)
	s := newServer(t, content)
	with := usual()
	with.readahead = 4
	before := runtime.NumGoroutine()
	d, err := openStore(t.Context(), s.URL+"/image", with, quiet{})
	if err != nil {
		t.Fatal(err)
	}
	var asked sync.WaitGroup
	asked.Add(4)
	s.answer(func(w http.ResponseWriter, q *http.Request) {
		if first, _ := parseAsked(q); first < 2*testBlock {
			s.image(w, q)
			return
		}
		asked.Done()
		<-q.Context().Done()
	})
	read(t, d, content, 0, 10)
	read(t, d, content, testBlock, 10) // begins to read ahead
	asked.Wait()
	began := time.Now()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Close took %v", took)
	}
	if c := d.(*diskStore).cache; c.ahead != 0 || len(c.connections) != 0 {
		t.Error("Close did not wait for what was under way")
	}
	s.CloseClientConnections()
	noLeak(t, before)
}

func TestReadAhead(t *testing.T) {
	content := noise(32 * testBlock)
	for _, ahead := range []int64{0, 1, 4} {
		s := newServer(t, content)
		with := usual()
		with.readahead = ahead
		d := openTest(t, s, with)
		s.requests.Store(0)
		for _, block := range []int{20, 9, 29, 9, 9} { // no sequence
			read(t, d, content, block*testBlock, 100)
		}
		if n := s.requests.Load(); n != 3 {
			t.Errorf("readahead=%d: %d requests for three blocks here and there", ahead, n)
		}
		read(t, d, content, 10*testBlock, 100)
		waitFor(t, func() bool { return s.requests.Load() >= 4+ahead })
		read(t, d, content, 10*testBlock+100, 100)
		read(t, d, content, 9*testBlock, 100)
		waitFor(t, func() bool { d.cache.mu.Lock(); defer d.cache.mu.Unlock(); return d.cache.ahead == 0 })
		if n := s.requests.Load(); n != 4+ahead {
			t.Errorf("readahead=%d: %d requests, want %d", ahead, n, 4+ahead)
		}
		s.answer(func(http.ResponseWriter, *http.Request) { t.Error("a request for what was to be there") })
		for block := range ahead {
			read(t, d, content, int(11+block)*testBlock, 100)
			d.streams = streams{} // or it goes on
		}
		s.answer(nil)
	}
}

// Read-ahead ends with the image.
func TestReadAheadAtTheEnd(t *testing.T) {
	content := noise(5*testBlock + 1)
	s := newServer(t, content)
	with := usual()
	with.readahead = 4
	d := openTest(t, s, with)
	s.requests.Store(0)
	for block := range 5 {
		read(t, d, content, block*testBlock, testBlock)
	}
	read(t, d, content, 5*testBlock, 1)
	if n := s.requests.Load(); n != 6 {
		t.Errorf("%d requests for six blocks", n)
	}
}

// The blocks of one long read are fetched side by side, as many as there are connections.
func TestLongReadUsesTheConnections(t *testing.T) {
	content := noise(32 * testBlock)
	s := newServer(t, content)
	d := openTest(t, s, usual())
	var now, most int
	var mu sync.Mutex
	full := make(chan struct{})
	s.answer(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		now++
		most = max(most, now)
		if now == 8 && most == 8 {
			select {
			case <-full:
			default:
				close(full)
			}
		}
		mu.Unlock()
		select {
		case <-full:
		case <-time.After(10 * time.Second):
			t.Error("the connections are not used")
		}
		s.image(w, q)
		mu.Lock()
		now--
		mu.Unlock()
	})
	read(t, d, content, 0, len(content))
	if most > 8 {
		t.Errorf("%d requests at a time over 8 connections", most)
	}
}

func TestCacheKeepsWhatWasUsedLast(t *testing.T) {
	content := noise(32 * testBlock)
	s := newServer(t, content)
	with := usual()
	with.cache = 4 * testBlock
	d := openTest(t, s, with)
	s.requests.Store(0)
	for _, c := range []struct {
		block    int
		requests int64
	}{{0, 1}, {10, 2}, {20, 3}, {30, 4}, {0, 4}, {5, 5}, {0, 5}, {20, 5}, {30, 5}, {10, 6}} {
		read(t, d, content, c.block*testBlock, 10)
		if n := s.requests.Load(); n != c.requests {
			t.Fatalf("after block %d, %d requests, want %d", c.block, n, c.requests)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	content := noise(256 * testBlock)
	s := newServer(t, content)
	with := usual()
	with.cache, with.readahead, with.connections = 8*testBlock, 8, 3
	d := openTest(t, s, with)
	var readers sync.WaitGroup
	for range 32 {
		readers.Go(func() {
			for range 40 {
				length := 1 + rand.IntN(20*testBlock)
				read(t, d, content, rand.IntN(len(content)-length), length)
			}
		})
	}
	readers.Wait()
	waitFor(t, func() bool { d.cache.mu.Lock(); defer d.cache.mu.Unlock(); return d.cache.ahead == 0 })
	if n := d.cache.order.Len(); n > 8 {
		t.Errorf("%d blocks are cached, want at most 8", n)
	}
	if all := len(d.cache.buffers) + d.cache.order.Len(); all != 8+3 {
		t.Errorf("there are %d buffers, want 8 and one for each of 3 connections", all)
	}
}

// waitFor waits for what has to come.
func waitFor(t testing.TB, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what was waited for did not come")
		}
	}
}

func TestPausesGrowAndEndWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		passing := &failure{words: "busy", errno: syscall.EIO, passing: true}
		r := retrier{times: 6, pause: 200 * time.Millisecond, log: quiet{}}
		var at []time.Time
		err := r.do(t.Context(), "", func() error { at = append(at, time.Now()); return passing })
		if err == nil || err.Error() != "busy (attempt 7, the last)" || store.Errno(err) != syscall.EIO {
			t.Errorf("error is %v", err)
		}
		for i, most := range []time.Duration{200, 400, 800, 1600, 3200, 5000} {
			if pause := at[i+1].Sub(at[i]); pause < most*time.Millisecond/2 || pause > most*time.Millisecond {
				t.Errorf("pause %d is %v, want half of %dms to all of it", i, pause, most)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err = r.do(ctx, "", func() error { return passing })
		if took := time.Since(began); took != time.Second || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "busy") {
			t.Errorf("after %v, error is %v", took, err)
		}
	})
}
