// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within is the longest that anything here may take.
const within = 20 * time.Second

// socketPath is a path for a socket that is short enough wherever tests run.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fnbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "sock")
}

func listen(t *testing.T, path string) *Server {
	t.Helper()
	s, err := Listen(path, Private, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// serve runs s until the test ends, or until the function that it returns is
// called, which gives what Serve returned.
func serve(t *testing.T, s *Server, verbs map[string]Verb) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- s.Serve(ctx, verbs) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-result:
			return err
		case <-time.After(within):
			return errors.New("Serve did not return")
		}
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return stop
}

func echo(_ context.Context, args []string) Answer {
	return Answer{Code: uint8(len(args)), Text: strings.Join(args, "+")}
}

var verbs = map[string]Verb{"echo": echo}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.UnixConn)
}

// ask sends raw bytes and returns all that comes back.
func ask(t *testing.T, path, raw string, halfClose bool) string {
	t.Helper()
	conn := dial(t, path)
	if _, err := io.WriteString(conn, raw); err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
	if halfClose {
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	answer, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	return string(answer)
}

func call(t *testing.T, path, verb string, args ...string) Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	a, err := Call(ctx, path, verb, args...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestRequestsAreAnswered(t *testing.T) {
	path := socketPath(t)
	serve(t, listen(t, path), verbs)
	for _, c := range []struct {
		raw       string
		halfClose bool
		want      string
	}{
		{"echo\n\n", false, "0: \n"},
		{"echo\na\nb\n\n", false, "2: a+b\n"},
		{"echo\na\nb\n", true, "2: a+b\n"},
		{"echo\na", true, "1: a\n"},
		{"", true, "9: missing command\n"},
		{"\n", false, "9: missing command\n"},
		{"Echo\n\n", false, "10: unknown command\n"},
		{"echo\r\n\r\n\n", false, "10: unknown command\n"},
		{"ec\x00ho\n\n", false, "1: bad request: the request holds a NUL byte\n"},
		{strings.Repeat("x", 3*MaxRequest), false, "1: bad request: the request has more than 65536 bytes\n"},
	} {
		if have := ask(t, path, c.raw, c.halfClose); have != c.want {
			t.Errorf("%.40q, half-close %t: have %q, want %q", c.raw, c.halfClose, have, c.want)
		}
	}
	if a := call(t, path, "echo", "x y", "z"); a != (Answer{2, "x y+z"}) {
		t.Errorf("Call: %v", a)
	}
}

func TestAnswerIsOneLineWhateverTheVerbSays(t *testing.T) {
	path := socketPath(t)
	serve(t, listen(t, path), map[string]Verb{"x": func(context.Context, []string) Answer {
		return Answer{1, "disk\n0: fine\n" + strings.Repeat("y", 2*MaxAnswer)}
	}})
	a := call(t, path, "x")
	if a.Code != 1 || !strings.HasPrefix(a.Text, "disk 0: fine y") || len(a.String()) != MaxAnswer-1 {
		t.Errorf("have %d bytes: %.60q", len(a.String()), a.String())
	}
}

func TestSlowClientDelaysNobody(t *testing.T) {
	path := socketPath(t)
	serve(t, listen(t, path), verbs)
	for i := range 20 {
		slow := dial(t, path)
		if _, err := io.WriteString(slow, "echo\na"[:i%7]); err != nil {
			t.Fatal(err)
		}
	}
	started := time.Now()
	if a := call(t, path, "echo"); a != (Answer{}) {
		t.Errorf("have %v", a)
	}
	if took := time.Since(started); took > requestTime/2 {
		t.Errorf("it took %v", took)
	}
}

func TestSilentClientIsCutOff(t *testing.T) {
	path := socketPath(t)
	s := listen(t, path)
	s.requestTime = 50 * time.Millisecond
	serve(t, s, verbs)
	if have, want := ask(t, path, "echo\n", false), "1: no whole request within 50ms\n"; have != want {
		t.Errorf("have %q, want %q", have, want)
	}
}

func TestClientsAtOnceAreBounded(t *testing.T) {
	path := socketPath(t)
	serve(t, listen(t, path), verbs)
	first := dial(t, path)
	for range maxClients - 1 {
		dial(t, path)
	}
	if a := call(t, path, "echo"); a.Code != 1 || !strings.HasPrefix(a.Text, "too many") {
		t.Errorf("one too many: %v", a)
	}
	if _, err := io.WriteString(first, "echo\nx\n\n"); err != nil {
		t.Fatal(err)
	}
	if have, err := io.ReadAll(first); err != nil || string(have) != "1: x\n" {
		t.Errorf("one of the others: %q, error %v", have, err)
	}
	// The place is given back soon after the answer.
	for deadline := time.Now().Add(within); ; {
		if a := call(t, path, "echo", "again"); a.Text == "again" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no place became free")
		}
	}
}

func TestManyClientsAtOnce(t *testing.T) {
	path := socketPath(t)
	serve(t, listen(t, path), verbs)
	var wg sync.WaitGroup
	for i := range maxClients / 2 {
		wg.Go(func() {
			for j := range 20 {
				want := fmt.Sprint(i, "/", j)
				a, err := Call(context.Background(), path, "echo", want)
				if err != nil || a.Text != want && !strings.HasPrefix(a.Text, "too many") {
					t.Errorf("have %v, error %v", a, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestServeWaitsForItsVerbsAndTheyLearnOfIt(t *testing.T) {
	path := socketPath(t)
	entered, left := make(chan struct{}), make(chan struct{})
	stop := serve(t, listen(t, path), map[string]Verb{"wait": func(ctx context.Context, _ []string) Answer {
		close(entered)
		<-ctx.Done()
		close(left)
		return Answer{1, "shutting down"}
	}})
	silent := dial(t, path)
	answer := make(chan Answer, 1)
	go func() {
		a, err := Call(context.Background(), path, "wait")
		if err != nil {
			t.Error(err)
		}
		answer <- a
	}()
	<-entered
	if err := stop(); err != nil {
		t.Error(err)
	}
	select {
	case <-left:
	default:
		t.Error("Serve returned while a verb was running")
	}
	if a := <-answer; a != (Answer{1, "shutting down"}) {
		t.Errorf("the running verb's client got %v", a)
	}
	if have, err := io.ReadAll(silent); err != nil || string(have) != "1: shutting down\n" {
		t.Errorf("the silent client got %q, error %v", have, err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestCloseEndsServeAndMayBeRepeated(t *testing.T) {
	path := socketPath(t)
	s := listen(t, path)
	result := make(chan error, 1)
	go func() { result <- s.Serve(context.Background(), verbs) }()
	call(t, path, "echo")
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
}
