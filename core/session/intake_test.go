// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// TestIntakeReadsWhatWasSent sends headers and payloads of all lengths, cut into
// pieces anywhere.
func TestIntakeReadsWhatWasSent(t *testing.T) {
	for name, pair := range map[string]func() (near, far net.Conn){
		"socket":         func() (net.Conn, net.Conn) { return socketpair(t, unix.SOCK_STREAM) },
		"no descriptor":  net.Pipe,
		"TCP connection": func() (net.Conn, net.Conn) { return tcpPair(t) },
	} {
		t.Run(name, func(t *testing.T) {
			near, far := pair()
			defer near.Close()
			defer far.Close()
			random := rand.New(rand.NewPCG(3, 4))
			lengths := make([]int, 200)
			var stream []byte
			for i := range lengths {
				lengths[i] = []int{0, 1, 512, 4096, longPayload - 1, longPayload, intakeSize, 3 * intakeSize}[random.IntN(8)]
				stream = append(stream, numbered(nbd.RequestSize + lengths[i] + i)[i:]...)
			}
			ahead := 1000
			go func() {
				for rest := stream[ahead:]; len(rest) > 0; {
					n := min(len(rest), 1+random.IntN(200_000))
					if _, err := near.Write(rest[:n]); err != nil {
						return
					}
					rest = rest[n:]
				}
				_ = near.Close()
			}()
			_ = far.SetReadDeadline(time.Now().Add(patience))
			in := newIntake(newSocket(far), stream[:ahead])
			for i, length := range lengths {
				header, err := in.next(false)
				want := numbered(nbd.RequestSize + length + i)[i:]
				if err != nil || !bytes.Equal(header, want[:nbd.RequestSize]) {
					t.Fatalf("header %d: %v, %x", i, err, header)
				}
				in.skip(nbd.RequestSize)
				if i%7 == 6 {
					if err := in.discard(int64(length)); err != nil {
						t.Fatal(err)
					}
					continue
				}
				payload := make([]byte, length)
				if err := in.read(payload); err != nil || !bytes.Equal(payload, want[nbd.RequestSize:]) {
					t.Fatalf("payload %d of %d bytes: %v, or other bytes", i, length, err)
				}
			}
			if b, err := in.next(false); !errors.Is(err, io.EOF) || len(b) != 0 {
				t.Errorf("at the end: %d bytes, %v", len(b), err)
			}
		})
	}
}

// TestIdleIntakeHasNoMemory looks at it while it waits.
func TestIdleIntakeHasNoMemory(t *testing.T) {
	near, far := socketpair(t, unix.SOCK_STREAM)
	defer near.Close()
	defer far.Close()
	in := newIntake(newSocket(far), nil)
	waiting := make(chan bool, 10)
	empty := in.empty
	in.empty = func() { empty(); waiting <- in.buffer == nil }
	done := make(chan error, 1)
	go func() {
		for range 2 {
			if _, err := in.next(false); err != nil {
				done <- err
				return
			}
			in.skip(nbd.RequestSize)
		}
		done <- nil
	}()
	if !receive(t, waiting) {
		t.Error("it has memory before anything has come")
	}
	if _, err := near.Write(make([]byte, nbd.RequestSize+5)); err != nil {
		t.Fatal(err)
	}
	if receive(t, waiting) {
		t.Error("it gave up memory that holds a part of a header")
	}
	if _, err := near.Write(make([]byte, nbd.RequestSize-5)); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, done); err != nil {
		t.Error(err)
	}
}
