// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/flexnbd/flexnbd/sdk/store"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
)

// lentPipe is a loan of one end of a pipe. closed says whether it has been closed.
func lentPipe(t *testing.T) (l *Lent, closed func() bool) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	l = NewLent(w, nil, func(context.Context) error { return nil })
	t.Cleanup(l.End)
	raw, err := r.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return l, func() (closed bool) {
		if err := raw.Control(func(fd uintptr) {
			_, err := unix.Read(int(fd), make([]byte, 1)) // the pipe does not block
			closed = !errors.Is(err, unix.EAGAIN)
		}); err != nil {
			t.Fatal(err)
		}
		return closed
	}
}

// ended says whether l is over.
func ended(l *Lent) bool {
	select {
	case <-l.Ended():
		return true
	default:
		return false
	}
}

func TestLentIsClosedWhenTheLastOneLeaves(t *testing.T) {
	l, closed := lentPipe(t)
	if !l.Enter() {
		t.Fatal("nobody may enter")
	}
	l.Share()
	l.End()
	l.End()
	if l.Enter() {
		t.Error("somebody entered after the end")
	}
	l.Share() // by somebody inside, this may happen after the end
	for range 3 {
		if ended(l) || closed() {
			t.Fatal("over while somebody was inside")
		}
		l.Leave()
	}
	if !ended(l) || !closed() {
		t.Error("still open after the last one left")
	}
	if l.Enter() || !ended(l) {
		t.Error("somebody entered when it was over")
	}
}

func TestLentWithNobodyInsideIsClosedAtOnce(t *testing.T) {
	l, closed := lentPipe(t)
	if l.Enter() {
		l.Leave()
	}
	if ended(l) || closed() {
		t.Error("over without having been ended")
	}
	l.End()
	if !ended(l) || !closed() {
		t.Error("open after the end")
	}
}

func TestLeavingMoreOftenThanEnteringPanics(t *testing.T) {
	l, _ := lentPipe(t)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
		l.Share() // make up for it
	}()
	l.Leave()
}

// A panic of the second close of the channel would end this test.
func TestLentEndsOnceHoweverManyUseIt(t *testing.T) {
	for range 200 {
		l, closed := lentPipe(t)
		var inside, entered atomic.Int64
		var users sync.WaitGroup
		for range 8 {
			users.Go(func() {
				for l.Enter() {
					inside.Add(1)
					entered.Add(1)
					l.Share()
					inside.Add(1)
					if ended(l) {
						t.Error("over while somebody was inside")
					}
					inside.Add(-1)
					l.Leave()
					inside.Add(-1)
					l.Leave()
					runtime.Gosched()
				}
			})
		}
		for entered.Load() < 8 {
			runtime.Gosched()
		}
		for range 2 {
			users.Go(l.End)
		}
		<-l.Ended()
		if n := inside.Load(); n != 0 {
			t.Errorf("over with %d inside", n)
		}
		users.Wait()
		if !closed() {
			t.Error("not closed")
		}
	}
}

func TestGiveBackWaitsUntilNobodyIsInside(t *testing.T) {
	l, _ := lentPipe(t)
	var told atomic.Int32
	l.giveBack = func(context.Context) error {
		if !ended(l) {
			t.Error("the plugin was told while somebody was inside")
		}
		told.Add(1)
		return nil
	}
	l.Enter()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.GiveBack(over); !errors.Is(err, context.Canceled) || told.Load() != 0 {
		t.Errorf("giving back what is in use, with an ended context: %v; told %d times", err, told.Load())
	}
	back := make(chan error, 1)
	go func() { back <- l.GiveBack(t.Context()) }()
	l.Leave()
	if err := <-back; err != nil || told.Load() != 1 {
		t.Errorf("giving back: %v; told %d times", err, told.Load())
	}
}

// lenderCalls answers an Open that lends.
type lenderCalls struct {
	backendv1.BackendClient
	open     *backendv1.OpenResponse
	returned int
	closed   int
}

func (c *lenderCalls) Open(context.Context, *backendv1.OpenRequest, ...grpc.CallOption) (*backendv1.OpenResponse, error) {
	return c.open, nil
}

func (c *lenderCalls) ReturnLoan(context.Context, *backendv1.ReturnLoanRequest, ...grpc.CallOption) (*backendv1.ReturnLoanResponse, error) {
	c.returned++
	return &backendv1.ReturnLoanResponse{}, nil
}

func (c *lenderCalls) Close(context.Context, *backendv1.CloseRequest, ...grpc.CallOption) (*backendv1.CloseResponse, error) {
	c.closed++
	return &backendv1.CloseResponse{}, nil
}

// mute is a channel on which nothing comes.
func mute() *DescriptorChannel {
	return &DescriptorChannel{done: make(chan struct{}), arrived: map[uint64]unclaimed{}, wanted: map[uint64]chan *os.File{}}
}

func TestLoanThatNeverComesIsNotWaitedForForEver(t *testing.T) {
	lends := &backendv1.OpenResponse{Disk: 1, Lane: LaneFile, Loan: 9, Info: infoToProto(store.Info{
		Size: 4096, Replayable: true, Survives: store.SurvivesAcknowledged,
	})}
	synctest.Test(t, func(t *testing.T) {
		calls, begin := &lenderCalls{open: lends}, time.Now()
		s, err := openRemote(t.Context(), calls, mute(), Disk{Lanes: []string{LaneFile, LaneRPC}})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != descriptorWait {
			t.Errorf("waited %v, want %v", took, descriptorWait)
		}
		l, refused := s.(LentTaker).TakeLent()
		if l != nil || refused == nil || !strings.Contains(refused.Error(), "did not come") || calls.returned != 1 || calls.closed != 0 {
			t.Errorf("loan %v, refused: %v; returned %d times, closed %d times", l, refused, calls.returned, calls.closed)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		calls := &lenderCalls{open: lends}
		_, err := openRemote(t.Context(), calls, mute(), Disk{Lanes: []string{LaneFile}})
		if err == nil || !strings.Contains(err.Error(), "did not come") || calls.closed != 1 {
			t.Errorf("with no other lane: %v; closed %d times", err, calls.closed)
		}
	})
	synctest.Test(t, func(t *testing.T) { // whoever opens gives up first
		calls := &lenderCalls{open: lends}
		ctx, cancel := context.WithTimeout(t.Context(), descriptorWait/2)
		defer cancel()
		_, err := openRemote(ctx, calls, mute(), Disk{Lanes: []string{LaneFile, LaneRPC}})
		if !errors.Is(err, context.DeadlineExceeded) || calls.closed != 1 {
			t.Errorf("with an ended context: %v; closed %d times", err, calls.closed)
		}
	})
}

func TestWithoutAChannelThereIsNoFileLane(t *testing.T) {
	calls := &lenderCalls{open: &backendv1.OpenResponse{Disk: 1, Lane: LaneRPC, Info: infoToProto(store.Info{Size: 1})}}
	s, err := openRemote(t.Context(), calls, nil, Disk{Lanes: []string{LaneFile, LaneRPC}})
	if err != nil {
		t.Fatal(err)
	}
	if l, refused := s.(LentTaker).TakeLent(); l != nil || !errors.Is(refused, errNoChannel) {
		t.Errorf("loan %v, refused: %v", l, refused)
	}
	for want, lanes := range map[string][]string{
		"only lane here is rpc": {LaneFile, LaneRing},
		`no lane "tape"`:        {LaneRPC, "tape"},
	} {
		if _, err := openRemote(t.Context(), calls, nil, Disk{Lanes: lanes}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("lanes %v: %v, want an error about %s", lanes, err, want)
		}
	}
}
