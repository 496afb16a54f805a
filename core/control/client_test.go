// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCallSaysWhyNobodyAnswers(t *testing.T) {
	nothing, dead := socketPath(t), socketPath(t)
	stale(t, dead)
	file := socketPath(t)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, says string
		is         error
	}{
		{nothing, "does not exist: is the server running", fs.ErrNotExist},
		{dead, "nobody is listening", syscall.ECONNREFUSED},
		{file, "is no socket but something else", syscall.ECONNREFUSED},
		{"/tmp/" + strings.Repeat("x", 200), "107 at most", nil},
		{"", "path is empty", nil},
	} {
		_, err := Call(context.Background(), c.path, "status")
		if err == nil || !strings.Contains(err.Error(), c.says) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%.40s: have %v", c.path, err)
		}
	}
}

func TestPermissionIsExplained(t *testing.T) {
	err := explain(context.Background(), "/x", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "run this as the server's user or root") {
		t.Errorf("have %v", err)
	}
}

// fake is a server that does what talk says on its one connection.
func fake(t *testing.T, talk func(net.Conn)) string {
	t.Helper()
	path := socketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		talk(conn)
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return path
}

// untilClosed reads until the client has gone.
func untilClosed(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

func TestSilentServerIsGivenUp(t *testing.T) {
	path := fake(t, untilClosed)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := Call(ctx, path, "status")
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "did not answer in time") {
		t.Errorf("have %v", err)
	}
}

func TestCancelledCallReturns(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	path := fake(t, func(conn net.Conn) {
		cancel()
		untilClosed(conn)
	})
	if _, err := Call(ctx, path, "status"); !errors.Is(err, context.Canceled) {
		t.Errorf("have %v", err)
	}
}

func TestGarbageIsNoAnswer(t *testing.T) {
	path := fake(t, func(conn net.Conn) { _, _ = io.WriteString(conn, "SSH-2.0-OpenSSH\r\n") })
	if _, err := Call(context.Background(), path, "status"); !errors.Is(err, errGarbage) {
		t.Errorf("have %v", err)
	}
}

func TestServerThatHangsUpIsReported(t *testing.T) {
	path := fake(t, func(conn net.Conn) {
		if _, err := readRequest(conn); err != nil {
			t.Error(err)
		}
	})
	_, err := Call(context.Background(), path, "status")
	if err == nil || !strings.Contains(err.Error(), "before it answered") {
		t.Errorf("have %v", err)
	}
}

// TestEarlyRefusalIsHeard: the server answers and closes while the client is
// still sending more than the socket's buffer holds.
func TestEarlyRefusalIsHeard(t *testing.T) {
	path := fake(t, func(conn net.Conn) { _, _ = io.WriteString(conn, "1: busy\n") })
	a, err := Call(context.Background(), path, "acl", strings.Repeat("x", MaxRequest-10))
	if err != nil || a != (Answer{1, "busy"}) {
		t.Errorf("have %v, error %v", a, err)
	}
}

func TestRequestThatCannotBeSentIsRefused(t *testing.T) {
	if _, err := Call(context.Background(), "/nowhere", "acl", "a\nb"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("have %v", err)
	}
}
