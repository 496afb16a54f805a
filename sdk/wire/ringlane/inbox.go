// SPDX-License-Identifier: Apache-2.0

package ringlane

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/wire/ring"
)

// inbox is where completions come in. The receiver reads them, and whoever has just sent
// the only request that is under way, for a moment.
type inbox struct {
	mu     sync.Mutex // taken before the ring's
	buf    [ring.MaxInFlight * ring.CompletionSize]byte
	have   int
	broken error // which rule the process has broken; nothing is read after that

	pause atomic.Int32 // for how many requests nobody lingers
}

// scratch is a reader's.
type scratch struct{ well, ill []ticket }

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (s *scratch) clear() {
	clear(s.well)
	clear(s.ill)
	s.well, s.ill = s.well[:0], s.ill[:0]
}

// read takes in what has come. The error is EAGAIN if that is nothing, and any other if
// nothing more will come.
func (l *line) read(fd int, done *scratch) error {
	in := &l.in
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.broken != nil {
		return in.broken
	}
	n, err := unix.Read(fd, in.buf[in.have:])
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(fd, in.buf[in.have:])
	}
	switch {
	case err != nil:
		return err
	case n == 0:
		return io.EOF
	}
	in.have += n
	used, err := l.accept(in.buf[:in.have], done)
	in.have = copy(in.buf[:], in.buf[used:in.have])
	if err != nil {
		in.broken = err
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // which the receiver notices, whoever reads
	}
	return err
}

// receive is the receiver: it takes completions until the ring ends.
func (l *line) receive() {
	defer close(l.ended)
	defer func() { _ = l.socket.Close() }()
	var done scratch
	for {
		var err error
		closed := l.raw.Read(func(fd uintptr) bool {
			err = l.read(int(fd), &done)
			return !errors.Is(err, unix.EAGAIN)
		})
		l.queue.completed(done.well, done.ill)
		done.clear()
		if closed != nil || err != nil {
			l.end()
			return
		}
	}
}

const (
	// lingerTime is how long whoever has sent the only request waits for it.
	lingerTime = 100 * time.Microsecond
	// lingerPause is how many requests later that is tried again where it was in vain.
	lingerPause = 100
	// quickPayload is the most bytes that a request may have for that.
	quickPayload = 64 << 10
)

// linger waits for a moment for the only request that is under way, on the caller's own
// thread, and takes it in: where a client has one request in flight at a time, that is
// quicker than to have the receiver woken, and the caller has nothing else to do.
func (l *line) linger() {
	if l.in.pause.Load() > 0 {
		l.in.pause.Add(-1)
		return
	}
	done := scratches.Get().(*scratch)
	ready := 0
	_ = l.raw.Control(func(fd uintptr) {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		limit := unix.NsecToTimespec(lingerTime.Nanoseconds())
		if ready, _ = unix.Ppoll(fds[:], &limit, nil); ready > 0 {
			_ = l.read(int(fd), done) // an error is the receiver's, who meets it too
		}
	})
	if ready == 0 {
		l.in.pause.Store(lingerPause)
	}
	l.queue.completed(done.well, done.ill)
	done.clear()
	scratches.Put(done)
}
