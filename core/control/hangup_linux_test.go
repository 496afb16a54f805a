// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"
)

// patient is a server with a verb that waits until it is released or its ctx ends,
// and says which.
type patient struct {
	path             string
	entered, release chan struct{}
	ended            chan error // ctx's error, or nil
}

func newPatient(t *testing.T, wrap func(Verb) Verb) *patient {
	t.Helper()
	p := &patient{path: socketPath(t), entered: make(chan struct{}), release: make(chan struct{}), ended: make(chan error, 1)}
	s := listen(t, p.path)
	s.hangupLook = time.Millisecond
	serve(t, s, map[string]Verb{"wait": wrap(func(ctx context.Context, _ []string) Answer {
		close(p.entered)
		select {
		case <-p.release:
		case <-ctx.Done():
		}
		p.ended <- ctx.Err()
		return Answer{Text: "waited"}
	})})
	return p
}

// looked waits for so long that a client which has gone would have been noticed many
// times over.
func (p *patient) looked(t *testing.T) {
	t.Helper()
	select {
	case err := <-p.ended:
		t.Fatalf("the verb ended with %v", err)
	case <-time.After(100 * time.Millisecond):
	}
}

func TestHangupEndsAVerb(t *testing.T) {
	for name, halfFirst := range map[string]bool{"at once": false, "after a half-close": true} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t, UntilHangup)
			conn := dial(t, p.path)
			if _, err := io.WriteString(conn, "wait\n\n"); err != nil {
				t.Fatal(err)
			}
			<-p.entered
			if halfFirst {
				if err := conn.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				p.looked(t)
			}
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-p.ended:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("it ended with %v", err)
				}
			case <-time.After(within):
				t.Fatal("the verb outlives its client")
			}
		})
	}
}

func TestHalfCloseIsNoHangup(t *testing.T) {
	for name, request := range map[string]string{"whole": "wait\n\n", "ended by the half-close": "wait\n"} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t, UntilHangup)
			conn := dial(t, p.path)
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			<-p.entered
			p.looked(t)
			close(p.release)
			if have, err := io.ReadAll(conn); err != nil || string(have) != "0: waited\n" {
				t.Errorf("have %q, error %v", have, err)
			}
		})
	}
}

func TestHangupDoesNotEndAVerbThatDidNotAskForIt(t *testing.T) {
	p := newPatient(t, func(v Verb) Verb { return v })
	conn := dial(t, p.path)
	if _, err := io.WriteString(conn, "wait\n\n"); err != nil {
		t.Fatal(err)
	}
	<-p.entered
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	p.looked(t)
	close(p.release)
	if err := <-p.ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func TestVerbsThatWaitGiveTheirPlacesBackWhenTheirClientsHangUp(t *testing.T) {
	path := socketPath(t)
	s := listen(t, path)
	s.hangupLook = time.Millisecond
	entered := make(chan struct{}, maxClients)
	serve(t, s, map[string]Verb{"echo": echo, "wait": UntilHangup(func(ctx context.Context, _ []string) Answer {
		entered <- struct{}{}
		<-ctx.Done()
		return Answer{Code: 1}
	})})
	var waiting []io.Closer
	for range maxClients {
		conn := dial(t, path)
		if _, err := io.WriteString(conn, "wait\n\n"); err != nil {
			t.Fatal(err)
		}
		<-entered
		waiting = append(waiting, conn)
	}
	if a := call(t, path, "echo"); a.Code != 1 {
		t.Errorf("one too many: %v", a)
	}
	for _, conn := range waiting {
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(within); call(t, path, "echo") != (Answer{}); {
		if time.Now().After(deadline) {
			t.Fatal("no place became free")
		}
	}
}
