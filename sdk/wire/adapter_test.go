// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// waitFor polls a state that another goroutine brings about.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

// plainStore is a disk in memory. Reads of offset blockAt wait for release.
type plainStore struct {
	mu      sync.Mutex
	data    []byte
	flushed int
	ctx     context.Context // of the last call
	err     error

	blockAt int64
	release chan struct{}
}

func newPlainStore(size int) *plainStore {
	return &plainStore{data: make([]byte, size), blockAt: -1}
}

func (s *plainStore) enter(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
	return s.err
}

func (s *plainStore) Info() store.Info { return store.Info{Size: int64(len(s.data))} }

func (s *plainStore) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off == s.blockAt {
		select {
		case <-s.release:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	copy(p, s.data[off:])
	return nil
}

func (s *plainStore) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	copy(s.data[off:], p)
	if flags&store.FUA != 0 {
		s.flushed++
	}
	return nil
}

func (s *plainStore) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.data[off : off+length])
	if flags&store.FUA != 0 {
		s.flushed++
	}
	return nil
}

func (s *plainStore) Extents(_ context.Context, off, length int64) ([]store.Extent, error) {
	return store.AllData(off, length), nil
}

func (s *plainStore) Flush(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushed++
	return nil
}

func (s *plainStore) Close() error { return nil }

// exchange submits one request and waits for it.
type exchange struct {
	Queue
	done chan *Request
}

func newExchange(ctx context.Context, s store.Store, opts ...Option) *exchange {
	x := &exchange{done: make(chan *Request, 1024)}
	x.Queue = NewQueue(ctx, s, func(batch []*Request) {
		for _, r := range batch {
			x.done <- r
		}
	}, opts...)
	return x
}

func (x *exchange) do(r *Request) error {
	x.Submit([]*Request{r})
	return (<-x.done).Err
}

func TestQueueCarriesOutEveryOperation(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := newPlainStore(1 << 20)
	x := newExchange(t.Context(), s)
	p, err := x.Borrow(t.Context(), 5000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range p.Bytes {
		p.Bytes[i] = byte(i) | 1
	}
	want := bytes.Clone(p.Bytes)
	owner := new(int)
	w := &Request{Op: OpWrite, Offset: 123, Length: 5000, Data: p, Owner: owner, Flags: store.FUA, Err: errors.New("stale")}
	if err := x.do(w); err != nil || w.Owner != any(owner) {
		t.Fatalf("write: %v, owner %v", err, w.Owner)
	}
	clear(p.Bytes)
	if err := x.do(&Request{Op: OpRead, Offset: 123, Length: 5000, Data: p, Zero: true}); err != nil || !bytes.Equal(p.Bytes, want) {
		t.Fatalf("read: %v, bytes equal %v", err, bytes.Equal(p.Bytes, want))
	}
	if err := x.do(&Request{Op: OpZero, Offset: 124, Length: 4998, Flags: store.FUA}); err != nil {
		t.Fatalf("zero: %v", err)
	}
	if err := x.do(&Request{Op: OpFlush}); err != nil {
		t.Fatalf("flush: %v", err)
	}
	x.Return(p)
	if s.data[123] != want[0] || s.data[5122] != want[4999] || !bytes.Equal(s.data[124:5122], make([]byte, 4998)) {
		t.Fatal("wrong bytes on the disk")
	}
	if s.flushed != 3 {
		t.Fatalf("%d flushes, want 3: a flag was lost", s.flushed)
	}
	s.err = store.ErrNoSpace
	for op := OpRead; op <= OpFlush; op++ {
		r := &Request{Op: op, Data: &Payload{}}
		if err := x.do(r); !errors.Is(err, store.ErrNoSpace) {
			t.Fatalf("%v: error %v", op, err)
		}
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSlowRequestDelaysNoOther(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := newPlainStore(1 << 20)
	s.blockAt, s.release = 0, make(chan struct{})
	x := newExchange(t.Context(), s)
	slow := &Request{Op: OpRead, Offset: 0, Length: 10, Data: x.TryBorrow(10)}
	fast := &Request{Op: OpRead, Offset: 10, Length: 10, Data: x.TryBorrow(10)}
	x.Submit([]*Request{slow, fast})
	if r := <-x.done; r != fast {
		t.Fatal("the fast read waited for the slow one")
	}
	closed := make(chan struct{})
	go func() { x.Close(); close(closed) }()
	select {
	case <-closed:
		t.Fatal("Close did not wait for the request in flight")
	case r := <-x.done:
		t.Fatalf("%v ended though nothing released it: Close cancelled it", r)
	default:
	}
	close(s.release)
	<-closed
	if r := <-x.done; r != slow || r.Err != nil {
		t.Fatalf("slow read: %v", r.Err)
	}
}

func TestStoreGetsTheQueuesContext(t *testing.T) {
	defer goleak.VerifyNone(t)
	ctx, cancel := context.WithCancel(t.Context())
	s := newPlainStore(100)
	s.blockAt = 0
	x := newExchange(ctx, s)
	x.Submit([]*Request{{Op: OpRead, Length: 1, Data: x.TryBorrow(1)}})
	cancel()
	if r := <-x.done; !errors.Is(r.Err, context.Canceled) {
		t.Fatalf("got %v", r.Err)
	}
	x.Close()
}

func TestCompletionsThatPileUpAreDeliveredTogether(t *testing.T) {
	defer goleak.VerifyNone(t)
	const requests = 50
	s := newPlainStore(1 << 20)
	entered, leave := make(chan struct{}, requests), make(chan struct{})
	var sizes []int // the sink never runs twice at once
	q := NewQueue(t.Context(), s, func(batch []*Request) {
		entered <- struct{}{}
		<-leave
		sizes = append(sizes, len(batch))
	})
	batch := make([]*Request, requests)
	for i := range batch {
		batch[i] = &Request{Op: OpFlush}
	}
	q.Submit(batch)
	<-entered
	a := q.(*adapter)
	waitFor(t, "all others wait for delivery", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.done) == requests-1
	})
	close(leave)
	q.Close()
	if len(sizes) != 2 || sizes[0] != 1 || sizes[1] != requests-1 {
		t.Fatalf("delivered in batches of %v", sizes)
	}
}

func TestEveryRequestCompletesExactlyOnce(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := newPlainStore(1 << 20)
	var done atomic.Int64
	var q Queue
	q = NewQueue(t.Context(), s, func(batch []*Request) {
		for _, r := range batch {
			if r.Owner.(*atomic.Int32).Add(1) != 1 {
				t.Error("a request came back twice")
			}
			if r.Data != nil {
				q.Return(r.Data)
			}
		}
		done.Add(int64(len(batch)))
	}, WithBudget(1))
	const workers, rounds = 8, 200
	var submitted int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range workers {
		rnd := rand.New(rand.NewPCG(7, uint64(w)))
		wg.Go(func() {
			for range rounds {
				batch := make([]*Request, 0, 4)
				for range 1 + rnd.IntN(4) {
					r := &Request{Op: OpRead + Op(rnd.IntN(4)), Owner: new(atomic.Int32)}
					if r.Op == OpRead || r.Op == OpWrite {
						n := 1 + rnd.IntN(256<<10)
						if r.Data = q.TryBorrow(n); r.Data == nil {
							q.Submit(batch) // what is held back first, then wait
							mu.Lock()
							submitted += int64(len(batch))
							mu.Unlock()
							batch = nil
							r.Data, _ = q.Borrow(t.Context(), n)
						}
						r.Length = int64(n)
					}
					batch = append(batch, r)
				}
				q.Submit(batch)
				mu.Lock()
				submitted += int64(len(batch))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	q.Close()
	if done.Load() != submitted {
		t.Fatalf("%d of %d completed when Close returned", done.Load(), submitted)
	}
	if free := q.(*adapter).budget.free; free != MaxPayload {
		t.Fatalf("%d of %d of the budget free at the end", free, MaxPayload)
	}
}

func TestBudgetCountsClassSizes(t *testing.T) {
	q := NewQueue(t.Context(), newPlainStore(0), nil, WithBudget(2<<20))
	a := q.TryBorrow(513 << 10) // a class of 1 MiB
	b := q.TryBorrow(1 << 20)
	if a == nil || b == nil {
		t.Fatal("the budget does not hold what it should")
	}
	if q.TryBorrow(1) != nil {
		t.Fatal("lent beyond the budget")
	}
	q.Return(a)
	for range (1 << 20) / 4096 {
		if q.TryBorrow(1) == nil {
			t.Fatal("a byte took more than 4 KiB")
		}
	}
	if q.TryBorrow(1) != nil {
		t.Fatal("a byte took less than 4 KiB")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.Borrow(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	q.Close()
	q.Return(b) // after Close, by the session's last reply
}

func TestIdleQueueHasNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	s := newPlainStore(1)
	queues := make([]Queue, 200)
	for i := range queues {
		queues[i] = NewQueue(t.Context(), s, func([]*Request) {})
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Fatalf("%d goroutines for 200 idle queues", n-before)
	}
	for _, q := range queues {
		q.Close()
	}
}

func TestPayloadThatDoesNotFitItsRequestPanics(t *testing.T) {
	q := NewQueue(t.Context(), newPlainStore(1), nil)
	panics(t, func() { q.Submit([]*Request{{Op: OpRead, Length: 2, Data: q.TryBorrow(1)}}) })
}

func BenchmarkAdapterReads(b *testing.B) {
	s := newPlainStore(1 << 20)
	done := make(chan struct{}, 1)
	var left atomic.Int32
	q := NewQueue(b.Context(), s, func(batch []*Request) {
		if left.Add(-int32(len(batch))) == 0 {
			done <- struct{}{}
		}
	})
	batch := make([]*Request, 32)
	for i := range batch {
		batch[i] = &Request{Op: OpRead, Length: 4096, Data: q.TryBorrow(4096)}
	}
	b.ReportAllocs()
	for b.Loop() {
		left.Store(int32(len(batch)))
		q.Submit(batch)
		<-done
	}
	q.Close()
}
