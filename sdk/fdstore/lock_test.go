// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"context"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// OFD locks belong to the open file description, so two opens in one process
// conflict just as two processes do.
func TestLockLetsInOneWriterOrManyReaders(t *testing.T) {
	writer, reader := Options{}, Options{ReadOnly: true}
	for _, c := range []struct {
		name          string
		first, second Options
		free          bool
	}{
		{"WriterKeepsOutWriter", writer, writer, false},
		{"WriterKeepsOutReader", writer, reader, false},
		{"ReaderKeepsOutWriter", reader, writer, false},
		{"ReaderLetsInReader", reader, reader, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := image(t, t.TempDir(), 4096, os.O_RDWR)
			first := serve(t, f, c.first, linux)
			again := reopen(t, f.Name(), os.O_RDWR)
			_, err := New(again, c.second)
			if c.free {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantError(t, err, unix.EBUSY, f.Name(), "already being served")
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			second, err := New(again, c.second)
			if err != nil {
				t.Fatalf("after the first server has closed the image: %v", err)
			}
			if err := second.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A restarted plugin gets a duplicate of the descriptor that its predecessor had
// locked. The lock holds for as long as one of the two is open.
func TestDuplicateKeepsTheLockAndMayLockAgain(t *testing.T) {
	f := image(t, t.TempDir(), 4096, os.O_RDWR)
	first := serve(t, f, Options{}, linux)
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	lease := os.NewFile(uintptr(fd), f.Name())
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	other := reopen(t, f.Name(), os.O_RDWR)
	_, err = New(other, Options{})
	wantError(t, err, unix.EBUSY)

	second := serve(t, lease, Options{}, linux)
	_, err = New(other, Options{})
	wantError(t, err, unix.EBUSY)
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := New(other, Options{}); err != nil {
		t.Fatalf("after the last duplicate was closed: %v", err)
	}
}
