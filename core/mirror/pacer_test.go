// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestWholeWindowWithoutClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer()
		time.Sleep(time.Hour) // far from any client
		for range numPieces {
			if size, err := p.wait(t.Context(), false); size != pieceSize || err != nil {
				t.Fatalf("%d, %v", size, err)
			}
			p.begin()
		}
	})
}

// onePath is a path on which one piece takes a time, and several queue.
func (p *pacer) onePath(t *testing.T, takes time.Duration, pieces int) (most int) {
	t.Helper()
	var queue []time.Duration
	for range pieces {
		for {
			p.mu.Lock()
			room := float64(p.onTheWay) < p.size
			p.mu.Unlock()
			if !room {
				break
			}
			size, err := p.wait(t.Context(), true)
			if size != politePiece || err != nil {
				t.Fatalf("%d, %v", size, err)
			}
			p.begin()
			queue = append(queue, takes*time.Duration(len(queue)+1)) // behind those before
		}
		most = max(most, len(queue))
		time.Sleep(takes)
		p.end(politePiece, queue[0])
		queue = queue[1:]
	}
	return most
}

// A path that carries pieces one after the other has a queue as soon as there are two
// of them; one that carries them all at the same time never has.
func TestWindowFitsThePath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if most := newPacer().onePath(t, time.Millisecond, 200); most > 4 {
			t.Errorf("%d pieces on the way where one is enough", most)
		}
		long := newPacer()
		for range 10 * numPieces {
			long.begin()
			long.end(politePiece, 20*time.Millisecond)
		}
		if long.size != numPieces {
			t.Errorf("the window is %v where nothing queues", long.size)
		}
	})
}

func TestPathThatHasBecomeLongerIsLearnt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer()
		far := func() {
			p.begin()
			p.begin() // two of them, always
			p.end(politePiece, 20*time.Millisecond)
			p.end(politePiece, 20*time.Millisecond)
		}
		p.begin()
		p.end(politePiece, time.Millisecond)
		for range 100 {
			far()
		}
		if p.size > 2 {
			t.Fatalf("the window is %v, on a path that seems to queue", p.size)
		}
		time.Sleep(2*baseAge + time.Second)
		for range 2 * numPieces {
			far()
			time.Sleep(baseAge / numPieces)
		}
		if p.size != numPieces {
			t.Errorf("the window is still %v", p.size)
		}
	})
}

func TestPoliteCopyWaitsForItsPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer()
		p.begin()
		ready := make(chan int64, 1)
		go func() {
			size, _ := p.wait(t.Context(), true)
			ready <- size
		}()
		synctest.Wait()
		select {
		case <-ready:
			t.Fatal("a second piece goes although the window is one")
		default:
		}
		p.end(politePiece, 0) // abandoned: nothing is learnt
		if size := <-ready; size != politePiece || p.size != 1 {
			t.Errorf("size %d, window %v", size, p.size)
		}
		p.begin()
		p.setFree(true)
		if size, err := p.wait(t.Context(), true); size != pieceSize || err != nil {
			t.Errorf("free: %d, %v", size, err)
		}
		p.setFree(false)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errStopped)
		if _, err := p.wait(ctx, true); !errors.Is(err, errStopped) {
			t.Errorf("stopped: %v", err)
		}
	})
}
