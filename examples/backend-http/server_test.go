// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// server is a web server with one image, at /image.
type server struct {
	*httptest.Server
	requests atomic.Int64

	mu      sync.Mutex
	content []byte
	etag    string
	instead http.HandlerFunc // answers in the place of the server
}

func newServer(t testing.TB, content []byte) *server {
	s := &server{content: content, etag: `"one"`}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	s.requests.Add(1)
	s.mu.Lock()
	content, etag, instead := s.content, s.etag, s.instead
	s.mu.Unlock()
	if instead != nil {
		instead(w, q)
		return
	}
	if etag != "" {
		w.Header().Set("ETag", etag)
	}
	http.ServeContent(w, q, "", time.Unix(1e9, 0), bytes.NewReader(content))
}

// answer makes the server answer with instead from now on, or with the image for nil.
func (s *server) answer(instead http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instead = instead
}

// change puts another image in the place of the one there is.
func (s *server) change(content []byte, etag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.content, s.etag = content, etag
}

// image answers as the server would without instead.
func (s *server) image(w http.ResponseWriter, q *http.Request) {
	w.Header().Set("ETag", `"one"`)
	http.ServeContent(w, q, "", time.Unix(1e9, 0), bytes.NewReader(s.content))
}

const testBlock = 4 << 10

// usual are settings with which tests are fast.
func usual() settings {
	return settings{
		block: testBlock, cache: 64 * testBlock, connections: 8,
		timeout: 10 * time.Second, retries: 3, pause: time.Millisecond,
	}
}

// openTest opens the server's image until the test is over. Nothing that it started
// may be left then.
func openTest(t testing.TB, s *server, with settings) *diskStore {
	t.Helper()
	before := runtime.NumGoroutine()
	d, err := openStore(t.Context(), s.URL+"/image", with, quiet{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		s.CloseClientConnections()
		noLeak(t, before)
	})
	return d.(*diskStore)
}

// noLeak waits for the goroutines of connections that were just closed, here and in the
// server.
func noLeak(t testing.TB, before int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines are left of %d:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// quiet is a log that nobody reads.
type quiet struct{}

func (quiet) Warn(string, ...any) {}

// noise returns n bytes that are never the same twice.
func noise(n int) []byte {
	p := make([]byte, n)
	key := [32]byte{}
	for i := range key {
		key[i] = byte(rand.Uint32())
	}
	_, _ = rand.NewChaCha8(key).Read(p) // never fails
	return p
}

// read reads and fails the test unless it gets what the server has.
func read(t testing.TB, d store.Store, want []byte, off, length int) {
	t.Helper()
	p := make([]byte, length)
	if err := d.ReadAt(context.Background(), p, int64(off)); err != nil {
		t.Errorf("reading %d bytes at %d: %v", length, off, err)
	} else if !bytes.Equal(p, want[off:off+length]) {
		t.Errorf("%d bytes at %d are not the image's", length, off)
	}
}
