// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"
)

// openPatience bounds the opening with all its repetitions, in which an operator
// waits. It is less than flexnbd's own patience, so that our words arrive.
const openPatience = 20 * time.Second

// remote is an image on a web server, in the version that it had when it was opened.
// Its methods may be called from many goroutines; nothing in it changes any more.
type remote struct {
	at      location
	client  *http.Client
	timeout time.Duration
	retrier retrier

	size    int64
	version version
}

// openRemote learns the image's size and version by asking for its first byte, as only
// the answer to a GET shows whether the server does ranges.
func openRemote(ctx context.Context, at location, s settings, log logger) (*remote, error) {
	r := &remote{at: at, client: newClient(s), timeout: s.timeout, retrier: retrier{times: s.retries, pause: s.pause, log: log}}
	ctx, cancel := context.WithTimeoutCause(ctx, openPatience, fmt.Errorf("not done within %v", openPatience))
	defer cancel()
	err := r.request(ctx, span{0, 1}, r.learn)
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func newClient(s settings) *http.Client {
	return &http.Client{
		CheckRedirect: checkRedirect,
		Transport: &http.Transport{
			// Many connections are faster than many streams in one, and what the
			// operator asked for. HTTP/2 would be one.
			Protocols:              http1(),
			DialContext:            (&net.Dialer{Timeout: s.timeout}).DialContext,
			TLSHandshakeTimeout:    s.timeout,
			MaxConnsPerHost:        s.connections,
			MaxIdleConnsPerHost:    s.connections,
			IdleConnTimeout:        90 * time.Second,
			DisableCompression:     true, // ranges are of the image, not of its compressed form
			MaxResponseHeaderBytes: 64 << 10,
		},
	}
}

func http1() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

func checkRedirect(to *http.Request, via []*http.Request) error {
	switch {
	case len(via) > 10:
		return &failure{errno: syscall.EIO, words: "the server redirects in a circle, or more than 10 times; give --file the address where the image is"}
	case via[0].URL.Scheme == "https" && to.URL.Scheme != "https":
		return &failure{errno: syscall.EIO, words: "the server redirects from https to http, where anybody could change the image; if that is what you want, give --file the http address"}
	}
	to.Header.Del("Referer") // it would take the query to another server
	return nil
}

// identity names the image for good: where it is, and in which version. flexnbd
// compares it after it had to restart this process, so that no other version
// is served on from there. Names, passwords and keys are not in it.
func (r *remote) identity() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%s", r.at, r.size, r.version))
	return fmt.Sprintf("http:%x", sum)
}

// readAt fills p with the image's bytes at off.
func (r *remote) readAt(ctx context.Context, p []byte, off int64) error {
	return r.request(ctx, span{off, int64(len(p))}, func(a *http.Response) error { return r.receive(a, p, off) })
}

// close ends idle connections. None is in use any more.
func (r *remote) close() { r.client.CloseIdleConnections() }

// request asks for a span until take has taken the answer, or until there is no sense
// in it. All errors about the image come out of here, and this is where they get its
// name.
func (r *remote) request(ctx context.Context, s span, take func(*http.Response) error) error {
	err := r.retrier.do(ctx, fmt.Sprintf("image %s, %v", r.at, s), func() error { return r.once(ctx, s, take) })
	if err != nil {
		return fmt.Errorf("image %s, %v: %w", r.at, s, err)
	}
	return nil
}

// once asks for a span once.
func (r *remote) once(ctx context.Context, s span, take func(*http.Response) error) error {
	late := &failure{errno: syscall.EIO, passing: true, words: fmt.Sprintf("the answer was not there within %v", r.timeout)}
	limited, cancel := context.WithTimeoutCause(ctx, r.timeout, late)
	defer cancel()
	q, err := http.NewRequestWithContext(limited, http.MethodGet, r.at.url.String(), nil)
	if err != nil {
		return &failure{errno: syscall.EINVAL, words: "the request can't be made; correct --file"}
	}
	q.Header.Set("Range", s.header())
	q.Header.Set("Accept-Encoding", "identity")
	q.Header.Set("User-Agent", "flexnbd-backend-http")
	if condition := r.version.ifRange(); condition != "" {
		q.Header.Set("If-Range", condition)
	}
	a, err := r.client.Do(q)
	if err == nil {
		defer a.Body.Close()
		err = take(a)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil: // somebody gave up; the rest follows from that
		return context.Cause(ctx)
	case limited.Err() != nil:
		return late
	}
	return explainCall(err)
}

// span is a range of the image, in bytes. It is never empty.
type span struct{ off, length int64 }

func (s span) last() int64    { return s.off + s.length - 1 }
func (s span) header() string { return fmt.Sprintf("bytes=%d-%d", s.off, s.last()) }
func (s span) String() string { return fmt.Sprintf("bytes %d to %d", s.off, s.last()) }

// learn takes the answer to the first request, which says what the image is.
func (r *remote) learn(a *http.Response) error {
	switch {
	case a.StatusCode == http.StatusOK && a.ContentLength == 0:
		// Of an image of no bytes there is no first byte to send.
	case a.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		c, err := parseContentRange(a.Header.Get("Content-Range"))
		if err != nil || c.size != 0 {
			return explainStatus(a)
		}
	case a.StatusCode == http.StatusOK:
		return &failure{errno: syscall.ENOTSUP, words: "the server ignores Range and would send the whole image for every read; use one that does range requests, such as nginx, Apache or Caddy"}
	case a.StatusCode != http.StatusPartialContent:
		return explainStatus(a)
	default:
		c, err := parseContentRange(a.Header.Get("Content-Range"))
		if err != nil {
			return unusable("%v", err)
		}
		if c.first != 0 || c.last != 0 {
			return unusable("it was asked for byte 0 and sent %v", c)
		}
		r.size = c.size
	}
	if err := checkEncoding(a); err != nil {
		return err
	}
	r.version = versionOf(a.Header)
	if r.size > 0 && !r.version.isKnown() {
		return unusable("it sends neither a strong ETag nor Last-Modified, so that a change of the image could not be noticed; have it send one")
	}
	return nil
}

// receive takes an answer that has to hold len(p) bytes at off. p is all the memory
// there is for it, whatever the answer says about itself.
func (r *remote) receive(a *http.Response, p []byte, off int64) error {
	now := versionOf(a.Header)
	switch a.StatusCode {
	case http.StatusPartialContent:
	case http.StatusOK, http.StatusRequestedRangeNotSatisfiable, http.StatusPreconditionFailed:
		if a.StatusCode == http.StatusOK && r.version.isSame(now) {
			return unusable("it ignores Range now, which it did not before")
		}
		return r.hasChanged(now)
	default:
		f := explainStatus(a)
		f.errno = syscall.EIO // to somebody who reads from a disk, ENOENT or EACCES says nothing
		return f
	}
	c, err := parseContentRange(a.Header.Get("Content-Range"))
	want := contentRange{off, off + int64(len(p)) - 1, r.size}
	switch {
	case err != nil:
		return unusable("%v", err)
	case !r.version.isSame(now), c.size != r.size:
		return r.hasChanged(now)
	case c != want:
		return unusable("it was asked for %v and sent %v", want, c)
	case a.ContentLength >= 0 && a.ContentLength != int64(len(p)):
		return unusable("it announces %d bytes for a range of %d", a.ContentLength, len(p))
	}
	if err := checkEncoding(a); err != nil {
		return err
	}
	return readBody(a.Body, p)
}

// readBody fills p, and makes sure that this was all.
func readBody(body io.Reader, p []byte) error {
	if n, err := io.ReadFull(body, p); err != nil {
		return &failure{errno: syscall.EIO, passing: true, words: fmt.Sprintf("the answer broke off after %d of %d bytes", n, len(p))}
	}
	switch n, err := io.ReadFull(body, make([]byte, 1)); {
	case n > 0:
		return unusable("it sent more than the %d bytes of the range", len(p))
	case !errors.Is(err, io.EOF):
		return &failure{errno: syscall.EIO, passing: true, words: "the answer broke off at its end"}
	}
	return nil
}

func (r *remote) hasChanged(now version) error {
	return &failure{errno: syscall.EIO, words: fmt.Sprintf(
		"the image was changed on the server since it was opened (was: %d bytes, %v; is: %v); blocks of two versions are not mixed: put the old image back, or restart flexnbd to serve the new one",
		r.size, r.version, now)}
}

func checkEncoding(a *http.Response) error {
	if e := a.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return unusable("it sends the image encoded (Content-Encoding %.40q) although it was asked not to; turn compression off for images", e)
	}
	return nil
}
