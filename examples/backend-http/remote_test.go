// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// wantError ends the test unless err would reach a client as errno and says each of
// the words.
func wantError(t testing.TB, err error, errno syscall.Errno, words ...string) {
	t.Helper()
	if err == nil || store.Errno(err) != errno {
		t.Fatalf("error is %v (%v), want %v", err, store.Errno(err), errno)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("error %q does not say %q", err, w)
		}
	}
}

// parseAsked returns the range that a request asks for.
func parseAsked(q *http.Request) (first, last int) {
	a, b, _ := strings.Cut(strings.TrimPrefix(q.Header.Get("Range"), "bytes="), "-")
	first, _ = strconv.Atoi(a)
	last, _ = strconv.Atoi(b)
	return first, last
}

// part answers with a range that is said to be contentRange, and body.
func part(contentRange, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"one"`)
		w.Header().Set("Content-Range", contentRange)
		w.WriteHeader(http.StatusPartialContent)
		_, _ = io.WriteString(w, body)
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func TestOpenRefusesServersThatWillNotDo(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		errno  syscall.Errno
		words  string
	}{
		"no ranges": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1000)) }, syscall.ENOTSUP, "the server ignores Range"},
		"no version": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", `W/"weak"`)
			w.Header().Set("Content-Range", "bytes 0-0/1000")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, "x")
		}, syscall.EIO, "neither a strong ETag nor Last-Modified"},
		"compressed": {func(w http.ResponseWriter, q *http.Request) {
			if e := q.Header.Get("Accept-Encoding"); e != "identity" {
				t.Errorf("Accept-Encoding is %q", e)
			}
			w.Header().Set("Content-Encoding", "gzip")
			part("bytes 0-0/1000", "x")(w, q)
		}, syscall.EIO, "turn compression off"},
		"no size":      {part("bytes 0-0/*", "x"), syscall.EIO, "does not say how large"},
		"no range":     {part("", "x"), syscall.EIO, "is not of the form"},
		"another":      {part("bytes 1-1/1000", "x"), syscall.EIO, "asked for byte 0 and sent bytes 1-1/1000"},
		"missing":      {status(404), syscall.ENOENT, "404 Not Found; correct --file"},
		"forbidden":    {status(403), syscall.EACCES, "name and password"},
		"unauthorized": {status(401), syscall.EACCES, "name and password"},
		"broken":       {status(500), syscall.EIO, "500 Internal Server Error; see its log (attempt 4, the last)"},
		"odd":          {status(204), syscall.EIO, "204 No Content"},
		"circle":       {func(w http.ResponseWriter, q *http.Request) { http.Redirect(w, q, "/image", http.StatusFound) }, syscall.EIO, "redirects in a circle"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, nil)
			s.answer(c.answer)
			_, err := openStore(t.Context(), s.URL+"/image", usual(), quiet{})
			wantError(t, err, c.errno, s.URL+"/image, bytes 0 to 0: ", c.words)
		})
	}
}

func TestWrongAnswersAreNotBelieved(t *testing.T) {
	content := noise(8 * testBlock)
	body := string(content[testBlock : 2*testBlock])
	right := fmt.Sprintf("bytes %d-%d/%d", testBlock, 2*testBlock-1, len(content))
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		words  string
	}{
		"another range": {part(fmt.Sprintf("bytes %d-%d/%d", 2*testBlock, 3*testBlock-1, len(content)), body), "it was asked for bytes 4096-8191/32768 and sent bytes 8192-12287/32768"},
		"shorter range": {part(fmt.Sprintf("bytes %d-%d/%d", testBlock, testBlock, len(content)), "x"), "and sent bytes 4096-4096/32768"},
		"no range":      {part("", body), "is not of the form"},
		"nonsense":      {part("bytes 9-1/5", body), "is impossible"},
		"another size":  {part(fmt.Sprintf("bytes %d-%d/%d", testBlock, 2*testBlock-1, len(content)+1), body), "was changed on the server"},
		"announced too long": {func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Length", "1000000000000")
			part(right, body)(w, q)
		}, "announces 1000000000000 bytes for a range of 4096"},
		"too long": {func(w http.ResponseWriter, q *http.Request) {
			part(right, body)(w, q)
			w.(http.Flusher).Flush() // so that no length is announced
			_, _ = io.WriteString(w, "and more")
		}, "more than the 4096 bytes"},
		"endless": {func(w http.ResponseWriter, q *http.Request) {
			part(right, body)(w, q)
			for q.Context().Err() == nil {
				_, _ = io.WriteString(w, body)
			}
		}, "more than the 4096 bytes"},
		"too short": {func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(testBlock))
			part(right, body[:100])(w, q)
		}, "broke off after 100 of 4096 bytes (attempt 4, the last)"},
		"compressed": {func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			part(right, body)(w, q)
		}, "turn compression off"},
		"ranges lost": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", `"one"`)
			_, _ = w.Write(content)
		}, "ignores Range now"},
		"gone":   {status(404), "404 Not Found"},
		"denied": {status(403), "403 Forbidden"},
		"busy":   {status(429), "429 Too Many Requests"},
		"broken": {status(502), "502 Bad Gateway; see its log (attempt 4, the last)"},
		"cut":    {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "no answer from the server: EOF (attempt 4, the last)"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, content)
			d := openTest(t, s, usual())
			s.requests.Store(0)
			s.answer(c.answer)
			for range 2 { // what the first call has to say, the second has to say, too
				err := d.ReadAt(t.Context(), make([]byte, 100), testBlock+7)
				wantError(t, err, syscall.EIO, s.URL+"/image, bytes 4096 to 8191: ", c.words)
			}
			want := int64(2)
			if strings.Contains(c.words, "attempt 4") {
				want = 8
			}
			if n := s.requests.Load(); n != want && name != "cut" { // net/http repeats that, too
				t.Errorf("%d requests, want %d", n, want)
			}
			s.answer(nil)
			read(t, d, content, testBlock+7, 100)
		})
	}
}

func TestPassingFailuresPass(t *testing.T) {
	content := noise(8 * testBlock)
	s := newServer(t, content)
	d := openTest(t, s, usual())
	for name, failing := range map[string]http.HandlerFunc{
		"503":  status(503),
		"cut":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"half": part(fmt.Sprintf("bytes 0-%d/%d", testBlock-1, len(content)), ""),
	} {
		var n atomic.Int64
		s.answer(func(w http.ResponseWriter, q *http.Request) {
			if n.Add(1) <= 2 {
				if name == "half" {
					w.Header().Set("Content-Length", strconv.Itoa(testBlock))
				}
				failing(w, q)
				return
			}
			s.image(w, q)
		})
		d.cache.mu.Lock()
		for d.cache.order.Len() > 0 {
			d.cache.evict(d.cache.order.Back().Value.(*block))
		}
		d.cache.mu.Unlock()
		read(t, d, content, 0, 100)
		if n.Load() != 3 {
			t.Errorf("%s: %d requests, want 3", name, n.Load())
		}
	}
}

func TestServerThatHangsIsGivenUp(t *testing.T) {
	content := noise(8 * testBlock)
	s := newServer(t, content)
	for name, hang := range map[string]http.HandlerFunc{
		"before the answer": func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() },
		"within it": func(w http.ResponseWriter, q *http.Request) {
			part(fmt.Sprintf("bytes 0-%d/%d", testBlock-1, len(content)), "a few bytes")(w, q)
			w.(http.Flusher).Flush()
			<-q.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.answer(nil)
			d := openTest(t, s, usual())
			d.remote.timeout, d.remote.retrier.times = 30*time.Millisecond, 1
			s.answer(hang)
			began := time.Now()
			err := d.ReadAt(t.Context(), make([]byte, 10), 0)
			wantError(t, err, syscall.EIO, "not there within 30ms (attempt 2, the last)")
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// What is cached is of the old version, what is not is an error: never of the new one.
func TestVersionsAreNotMixed(t *testing.T) {
	old, other := noise(8*testBlock), noise(8*testBlock)
	for name, change := range map[string]func(s *server){
		"ETag":       func(s *server) { s.change(other, `"two"`) },
		"no ETag":    func(s *server) { s.change(other, "") },
		"weak":       func(s *server) { s.change(other, `W/"one"`) },
		"size":       func(s *server) { s.change(other[:len(other)-1], `"two"`) },
		"to nothing": func(s *server) { s.change(nil, `"two"`) },
		"behind If-Range": func(s *server) { // a server that knows nothing of conditions
			s.change(other, `"two"`)
			s.answer(func(w http.ResponseWriter, q *http.Request) {
				if q.Header.Get("If-Range") != `"one"` {
					t.Errorf("If-Range is %q", q.Header.Get("If-Range"))
				}
				q.Header.Del("If-Range")
				w.Header().Set("ETag", `"two"`)
				http.ServeContent(w, q, "", time.Unix(1e9, 0), bytes.NewReader(other))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, old)
			d := openTest(t, s, usual())
			read(t, d, old, 0, testBlock)
			change(s)
			err := d.ReadAt(t.Context(), make([]byte, 2*testBlock), 0)
			wantError(t, err, syscall.EIO, "was changed on the server", `ETag "one"`, "restart flexnbd")
			read(t, d, old, 0, testBlock)
			s.answer(nil)
			s.change(old, `"one"`)
			read(t, d, old, 0, len(old))
		})
	}
}

func TestLastModifiedTellsVersionsApart(t *testing.T) {
	old, other := noise(8*testBlock), noise(8*testBlock)
	s := newServer(t, old)
	serve := func(content []byte, modified time.Time, condition string) {
		s.answer(func(w http.ResponseWriter, q *http.Request) {
			if got := q.Header.Get("If-Range"); got != condition && got != "" {
				t.Errorf("If-Range is %q, want %q", got, condition)
			}
			http.ServeContent(w, q, "", modified, bytes.NewReader(content))
		})
	}
	then := time.Unix(1e9, 0)
	serve(old, then, then.UTC().Format(http.TimeFormat))
	d := openTest(t, s, usual())
	read(t, d, old, 0, 10)
	serve(other, then.Add(time.Second), then.UTC().Format(http.TimeFormat))
	err := d.ReadAt(t.Context(), make([]byte, 10), testBlock)
	wantError(t, err, syscall.EIO, "was changed", "Last-Modified Sun, 09 Sep 2001 01:46:40 GMT", "01:46:41")

	// A date of this very second may be that of two versions, and is no condition.
	now := time.Now().Add(time.Hour)
	serve(old, now, "")
	d = openTest(t, s, usual())
	read(t, d, old, 0, 10)
	serve(other, now.Add(time.Second), "")
	wantError(t, d.ReadAt(t.Context(), make([]byte, 10), testBlock), syscall.EIO, "was changed")
}

func TestRedirectsAreFollowedWithoutSecrets(t *testing.T) {
	content := noise(4 * testBlock)
	s := newServer(t, content)
	s.answer(func(w http.ResponseWriter, q *http.Request) {
		if name, password, _ := q.BasicAuth(); name != "" || password != "" || q.Header.Get("Referer") != "" {
			t.Errorf("another server was told %q, %q, and %q", name, password, q.Header.Get("Referer"))
		}
		s.image(w, q)
	})
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if name, password, _ := q.BasicAuth(); name != "me" || password != "secret" || q.URL.RawQuery != "key=private" {
			t.Errorf("name is %q, password %q, query %q", name, password, q.URL.RawQuery)
		}
		// By another name, or it were the same host.
		http.Redirect(w, q, strings.Replace(s.URL, "127.0.0.1", "localhost", 1)+"/image", http.StatusFound)
	}))
	defer first.Close()
	d, err := openStore(t.Context(), strings.Replace(first.URL, "http://", "http://me:secret@", 1)+"/image?key=private", usual(), quiet{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	read(t, d, content, 0, len(content))
}

func TestRedirectFromHTTPSToHTTPIsRefused(t *testing.T) {
	plain := newServer(t, noise(10))
	secure := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer secure.Close()
	at, err := parseLocation(secure.URL)
	if err != nil {
		t.Fatal(err)
	}
	r := &remote{at: at, client: secure.Client(), timeout: time.Second, retrier: retrier{log: quiet{}}}
	r.client.CheckRedirect = checkRedirect
	wantError(t, r.request(t.Context(), span{0, 1}, r.learn), syscall.EIO, "from https to http")
}

func TestUntrustedCertificateIsRefusedAtOnce(t *testing.T) {
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = nil
	secure.StartTLS()
	defer secure.Close()
	_, err := openStore(t.Context(), secure.URL, usual(), quiet{})
	wantError(t, err, syscall.EIO, "certificate", "SSL_CERT_FILE")
	if strings.Contains(err.Error(), "attempt") {
		t.Errorf("it was tried again: %v", err)
	}
}

func TestErrorsKeepSecrets(t *testing.T) {
	s := newServer(t, noise(10))
	s.answer(status(403))
	for _, host := range []string{s.Listener.Addr().String(), "127.0.0.1:1"} { // nobody listens on the latter
		_, err := openStore(t.Context(), "http://me:secret@"+host+"/image?key=private", usual(), quiet{})
		if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "private") {
			t.Errorf("error is %v", err)
		}
	}
}
