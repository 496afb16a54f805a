// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// Server is the plugin's end of one ring: it carries requests out on a store.
//
// One goroutine, the reader, takes requests off the socket and carries them out at
// once, one after the other, and then sends their completions with one system call: for
// a store that computes, whatever else would be done about a request costs more than
// the request. What takes long must not keep back what came with it, so
//
//   - a long payload that is not the last gets a goroutine of its own, as do holes;
//   - so does everything while calls take longer than a goroutine costs (see pace);
//   - when the reader has been in one call for a tick of the watch, another goroutine
//     becomes the reader. The one before finishes its call and ends.
type Server struct {
	store  store.Store
	size   int64
	memory *Memory
	socket *os.File
	reads  *Socket

	ctx    context.Context // of the store's calls; ends with the ring
	cancel context.CancelFunc
	tasks  sync.WaitGroup // whatever carries requests out, and the watch
	pace   pace

	input input // the reader's own

	mu       sync.Mutex
	batch    []Request // off the socket; those from at on have not begun
	at       int
	reader   int  // how many readers there were before this one
	inCall   bool // the reader is in a call of the store
	calls    int  // how many calls readers have begun
	watching bool
	failed   error // why the ring ended

	outbox outbox
}

// NewServer takes over the socket and the memory, of memorySize bytes, that the host has
// sent. Run has to follow.
func NewServer(s store.Store, socket, memory *os.File, memorySize int) (*Server, error) {
	reads, readErr := NewSocket(socket)
	m, err := mapMemory(memory, memorySize)
	if err := errors.Join(readErr, err); err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	server := &Server{store: s, size: s.Info().Size, memory: m, socket: socket, reads: reads}
	server.ctx, server.cancel = context.WithCancel(context.Background())
	server.outbox.to = socket
	return server, nil
}

// Run serves until the host hangs up, somebody calls Close, or the host breaks the
// rules, which is the only error. Nothing of the ring runs any more when it returns.
func (s *Server) Run() error {
	s.tasks.Add(1)
	s.serve(0)
	s.tasks.Wait()
	s.cancel()
	err := errors.Join(s.memory.Close(), s.socket.Close())
	if errors.Is(err, os.ErrClosed) { // by Close
		err = nil
	}
	return errors.Join(s.failed, err)
}

// Close hangs up and asks the store's calls to give up early. It does not wait for Run.
func (s *Server) Close() {
	s.cancel()
	_ = s.socket.Close()
}

// serve is one reader.
func (s *Server) serve(me int) {
	defer s.tasks.Done()
	s.outbox.send() // what the reader before has completed
	for {
		if !s.carryOut(me) {
			return
		}
		batch, err := s.input.read(s.reads, s.batch[:0])
		if err == nil {
			err = s.check(batch)
		}
		if err != nil {
			s.end(err)
			return
		}
		s.mu.Lock()
		s.batch, s.at = batch, 0
		s.mu.Unlock()
	}
}

func (s *Server) check(batch []Request) error {
	for _, r := range batch {
		if err := r.check(s.size, len(s.memory.Bytes)); err != nil {
			return err
		}
	}
	return nil
}

// end notes why the ring ends, unless the host has hung up.
func (s *Server) end(err error) {
	if errors.Is(err, io.EOF) || s.ctx.Err() != nil { // Close
		err = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
	s.cancel() // nobody waits for the calls under way any more
}

const (
	// longPayload is from when on a payload is worth a goroutine, so that several are
	// worked on by several processors.
	longPayload = 128 << 10
	// together is how much payload is worked on before those that wait for it are told,
	// if it does not take slowCall before.
	together = 256 << 10
)

// carryOut carries out the batch. It returns false if somebody else has become the
// reader meanwhile.
func (s *Server) carryOut(me int) bool {
	bytes, began := 0, time.Now()
	for {
		r, what, more := s.next(me)
		switch what {
		case notReader:
			s.outbox.send()
			return false
		case nothingLeft:
			s.outbox.send()
			return true
		}
		if r.Op == OpPing {
			s.outbox.put(Completion{Cookie: r.Cookie, Length: r.Length})
			continue
		}
		if r.Op == OpZero || s.pace.slow() || r.Length >= longPayload && more {
			s.tasks.Go(func() {
				s.outbox.put(s.call(r))
				s.outbox.send()
			})
			continue
		}
		s.enter()
		c := s.call(r)
		s.outbox.put(c)
		if !s.leave(me) {
			s.outbox.send()
			return false
		}
		if bytes += int(r.Length); bytes >= together || time.Since(began) >= slowCall {
			s.outbox.send()
			bytes, began = 0, time.Now()
		}
	}
}

// What next found.
const (
	found = iota
	nothingLeft
	notReader
)

// next takes the next request of the batch. more says that it is not the last.
func (s *Server) next(me int) (r Request, what int, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.reader != me:
		return r, notReader, false
	case s.ctx.Err() != nil: // nobody waits for the rest
		return r, nothingLeft, false
	case s.at == len(s.batch):
		return r, nothingLeft, false
	}
	r = s.batch[s.at]
	s.at++
	return r, found, s.at < len(s.batch)
}

// enter notes that the reader begins a call, and sees to it that somebody watches.
func (s *Server) enter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inCall = true
	s.calls++
	if !s.watching {
		s.watching = true
		s.tasks.Go(s.watch)
	}
}

// leave notes the end of a call, and says whether the caller still is the reader.
func (s *Server) leave(me int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reader != me {
		return false
	}
	s.inCall = false
	return true
}

// call carries one request out on the store.
func (s *Server) call(r Request) Completion {
	begin := time.Now()
	var err error
	switch r.Op {
	case OpRead:
		err = s.store.ReadAt(s.ctx, s.payload(r), r.Offset)
	case OpWrite:
		err = s.store.WriteAt(s.ctx, s.payload(r), r.Offset, r.Flags)
	case OpZero:
		err = s.store.PunchHole(s.ctx, r.Offset, int64(r.Length), r.Flags)
	default:
		panic(fmt.Sprintf("ring: %v was not refused", r.Op))
	}
	if r.Op != OpZero {
		s.pace.note(time.Since(begin))
	}
	if err != nil {
		return Completion{Cookie: r.Cookie, Errno: store.Errno(err)}
	}
	return Completion{Cookie: r.Cookie, Length: r.Length}
}

func (s *Server) payload(r Request) []byte {
	return s.memory.Bytes[r.Payload:][:r.Length:r.Length]
}

const (
	// watchTick is how long the reader may be in one call before another goroutine
	// takes its place: once, or twice as long.
	watchTick = time.Millisecond
	// watchIdle is for how many ticks without a call the watch goes on.
	watchIdle = 20
)

// watch replaces a reader that does not come back from a call. It ends when there are
// no calls any more; the next one begins another watch.
func (s *Server) watch() {
	ticker := time.NewTicker(watchTick)
	defer ticker.Stop()
	last, idle := -1, 0
	for {
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			return
		}
		s.mu.Lock()
		switch {
		case s.calls != last:
			last, idle = s.calls, 0
		case s.inCall:
			s.replaceReader()
		default:
			idle++
		}
		if idle == watchIdle {
			s.watching = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
	}
}

// replaceReader makes another goroutine the reader. mu is held.
func (s *Server) replaceReader() {
	s.reader++
	s.inCall = false
	s.pace.note(watchTick)
	s.pace.note(watchTick)
	s.tasks.Add(1)
	go s.serve(s.reader)
}
