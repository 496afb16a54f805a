// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/memstore"
)

func TestLoadOnAServerThatKeepsItsWord(t *testing.T) {
	d, s := filled(t)
	a := serve(t, s)
	_, l := beginOn(t, d, Options{Servers: []Server{TCP(a.address)}, Seed: 1})
	began := time.Now()
	must(t, l.AwaitAcknowledged(limited(t), 800))
	must(t, l.Stop(limited(t)))
	r, err := d.Check(limited(t), reading{s})
	must(t, err)
	t.Log(r)
	writes, zeroes := l.Changes()
	if r.Searched == 0 || writes == 0 || zeroes == 0 || uint64(r.Requests) != l.Acknowledged() || l.Acknowledged() == writes+zeroes {
		t.Errorf("%v, %d writes, %d zeroings", r, writes, zeroes)
	}
	if b := l.Breaks(); len(b) > 0 {
		t.Errorf("connections broke: %v", b)
	}
	if p := l.Pauses(began, time.Now()); len(p) != r.Requests || p.Longest() == 0 || p.Longest() < p.Quantile(0.5) {
		t.Errorf("%v", p)
	}
}

func TestLoadSurvivesAServerThatEndsAndIsServedElsewhere(t *testing.T) {
	for name, end := range map[string]func(*server, *Load){
		"killed": func(a *server, _ *Load) { a.kill() },
		"shut down": func(a *server, l *Load) {
			a.stop()
			must(t, l.await(limited(t), func() bool { return len(l.breaks) == 4 }, true))
			a.kill()
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, s := filled(t)
			var at places
			a := serve(t, s)
			at.put("a", a)
			_, l := beginOn(t, d, Options{Servers: []Server{TCP("a"), TCP("b")}, Seed: 2, Dial: at.dial})
			must(t, l.AwaitAnsweredBy(limited(t), "a", 300))
			ended := time.Now()
			end(a, l)
			at.put("b", serve(t, s))
			must(t, l.AwaitAnsweredBy(limited(t), "b", 300))
			must(t, l.Stop(limited(t)))

			r, err := d.Check(limited(t), reading{s})
			must(t, err)
			t.Log(r)
			if !slices.Equal(r.Served, []string{"a", "b"}) {
				t.Errorf("served by %v", r.Served)
			}
			if n := len(l.BreaksBefore(ended)); n > 0 {
				t.Errorf("%d connections broke before the server ended", n)
			}
			if n := len(l.Breaks()); n != 4 {
				t.Errorf("%d connections broke: %v", n, l.Breaks())
			}
		})
	}
}

// each handles each connection to a listener until the test ends, and waits for all
// of it.
func each(t *testing.T, l net.Listener, handle func(net.Conn)) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var all []chan struct{}
		for {
			conn, err := l.Accept()
			if err != nil {
				break
			}
			done := make(chan struct{})
			all = append(all, done)
			go func() {
				defer close(done)
				defer conn.Close()
				handle(conn)
			}()
		}
		for _, done := range all {
			<-done
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
	})
}

func TestServerThatForgetsAWriteIsCaught(t *testing.T) {
	d, s := filled(t)
	f := &forgetful{Store: s, lost: make(chan struct{})}
	a := serve(t, f)
	_, l := beginOn(t, d, Options{Servers: []Server{TCP(a.address)}, Seed: 3})
	<-f.lost
	must(t, l.Stop(limited(t)))
	wantComplaint(t, d.Compare(reading{s}), "does not hold what was acknowledged")
	_, err := d.Check(limited(t), reading{s})
	wantComplaint(t, err, "no order of the requests explains what was read")
}

func TestTwoServersForOneDiskAreCaught(t *testing.T) {
	a, b := serve(t, memstore.New(diskSize)), serve(t, memstore.New(diskSize))
	turn := make(chan string, 4)
	for range 2 {
		turn <- a.address
		turn <- b.address
	}
	d, l := begin(t, Options{Servers: []Server{{"", "any"}}, Seed: 4, Dial: func(ctx context.Context, _ Server) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", <-turn)
	}})
	must(t, l.AwaitAcknowledged(limited(t), 500))
	must(t, l.Stop(limited(t)))
	_, err := d.Check(limited(t), nil)
	wantComplaint(t, err, "the read of connection", "allowed: write")
}

func TestRefusedRequestIsAFailure(t *testing.T) {
	a := serve(t, full{memstore.New(diskSize)})
	d, l := begin(t, Options{Servers: []Server{TCP(a.address)}}.RandomWrites())
	err := l.AwaitAcknowledged(limited(t), 1<<40)
	var errno nbd.Errno
	if !errors.As(err, &errno) || errno != nbd.ENOSPC {
		t.Errorf("waiting ended with %v", err)
	}
	if err := l.Stop(limited(t)); !errors.As(err, &errno) {
		t.Errorf("stopped with %v", err)
	}
	must(t, d.Compare(reading{memstore.New(diskSize)})) // refused is open-ended
}

func TestServerThatHoldsRequestsIsWaitedFor(t *testing.T) {
	d, s := filled(t)
	a := serve(t, s)
	_, l := beginOn(t, d, Options{Servers: []Server{TCP(a.address)}, Seed: 5})
	must(t, l.AwaitAcknowledged(limited(t), 100))
	a.gate.Hold()
	must(t, a.gate.Drain(limited(t)))
	held := time.Now()
	ctx, cancel := context.WithTimeout(limited(t), 50*time.Millisecond)
	defer cancel()
	if err := l.Pause(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("requests that are held were answered: %v", err)
	}
	l.Resume()
	opened := time.Now()
	a.gate.Open()
	must(t, l.AwaitMore(limited(t), 100))
	must(t, l.Stop(limited(t)))
	if p := l.Pauses(held, opened).Longest(); p < opened.Sub(held) {
		t.Errorf("the longest pause was %v, the gate was held for %v", p, opened.Sub(held))
	}
	if len(l.Breaks()) > 0 {
		t.Errorf("connections broke: %v", l.Breaks())
	}
	_, err := d.Check(limited(t), reading{s})
	must(t, err)
}

func TestHeldRequestsAreGivenUpAfterTheTimeout(t *testing.T) {
	d, s := filled(t)
	a := serve(t, s)
	_, l := beginOn(t, d, Options{Servers: []Server{TCP(a.address)}, Seed: 6, Writes: 1, RequestTimeout: 300 * time.Millisecond})
	must(t, l.AwaitAnsweredBy(limited(t), a.address, 100))
	a.gate.Hold()
	must(t, l.await(limited(t), func() bool { return len(l.breaks) >= 4 }, true))
	must(t, l.Stop(cancelled()))
	for _, b := range l.Breaks() {
		if !errors.Is(b.Err, errGaveUp) {
			t.Errorf("%v", b)
		}
	}
	n := 0
	for _, o := range d.snapshot() {
		if o.changes() && o.ret == open {
			n++
		}
	}
	if n == 0 {
		t.Error("no attempt is open-ended")
	}
	_, err := d.Check(limited(t), reading{s})
	must(t, err)
}

// cancelled has ended already.
func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestStopGivesUpWhatIsNotAnswered(t *testing.T) {
	d, s := filled(t)
	a := serve(t, s)
	_, l := beginOn(t, d, Options{Servers: []Server{TCP(a.address)}, Seed: 7, Writes: 1})
	must(t, l.AwaitAcknowledged(limited(t), 50))
	a.gate.Hold()
	must(t, l.Stop(cancelled()))
	a.kill()
	if _, err := d.Check(limited(t), reading{s}); err != nil {
		t.Error(err)
	}
	must(t, l.Stop(limited(t)))
	if len(l.Breaks()) > 0 {
		t.Errorf("giving up counts as broken: %v", l.Breaks())
	}
	if err := l.AwaitMore(limited(t), 1); err == nil {
		t.Error("a load that has ended is waited for")
	}
}

func TestLoadWithoutAServerFailsWhenItsPatienceEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	_, load := begin(t, Options{Servers: []Server{TCP(l.Addr().String())}, Patience: time.Millisecond})
	err = load.AwaitAcknowledged(limited(t), 1)
	wantComplaint(t, err, "no server has let it in", "connection refused")
	wantComplaint(t, load.Stop(limited(t)), "no server has let it in")
}

func TestServerOfAnotherDiskIsAFailure(t *testing.T) {
	a := serve(t, memstore.New(diskSize+SectorSize))
	_, l := begin(t, Options{Servers: []Server{TCP(a.address)}})
	wantComplaint(t, l.AwaitAcknowledged(limited(t), 1), "its disk has 4194816 bytes instead of 4194304")
}

func TestServerThatBreaksTheProtocolIsAFailure(t *testing.T) {
	far := serve(t, memstore.New(diskSize))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	each(t, l, func(near net.Conn) { swapCookies(near, far.address) })
	_, load := begin(t, Options{Servers: []Server{TCP(l.Addr().String())}, Connections: 1}.RandomWrites())
	wantComplaint(t, load.AwaitAcknowledged(limited(t), 1), "breaks the protocol", "it answers request 2 instead of 1")
}

// swapCookies relays a connection, and answers the first request by itself.
func swapCookies(near net.Conn, to string) {
	far, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(near, far)
	}()
	defer func() { _ = far.Close(); <-back }()
	buf := make([]byte, 64<<10)
	for {
		n, err := near.Read(buf)
		if err != nil {
			return
		}
		if _, notRequest := nbd.DecodeRequest(buf[:n]); notRequest == nil {
			_, _ = near.Write(nbd.AppendSimpleReply(nil, 0, 2))
			return
		}
		_, _ = far.Write(buf[:n])
	}
}

func TestServerThatTurnsGuestsAwayIsPassedOver(t *testing.T) {
	d, s := filled(t)
	refusing, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	refused := make(chan struct{}, 100)
	each(t, refusing, func(conn net.Conn) {
		_, _ = conn.Write(nbd.AppendGreeting(nil, nbd.FlagFixedNewstyle|nbd.FlagNoZeroes))
		if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
			return
		}
		_, _ = conn.Write(nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepErrPolicy, []byte("waits for a disk")))
		refused <- struct{}{}
		_, _ = io.Copy(io.Discard, conn)
	})
	b := serve(t, s)
	_, l := beginOn(t, d, Options{Servers: []Server{TCP(refusing.Addr().String()), TCP(b.address)}, Seed: 8})
	must(t, l.AwaitAnsweredBy(limited(t), b.address, 100))
	must(t, l.Stop(limited(t)))
	if len(refused) != 4 || len(l.Breaks()) != 0 {
		t.Errorf("%d refusals, breaks %v", len(refused), l.Breaks())
	}
}

func TestPauseSendsNothingUntilResume(t *testing.T) {
	d, s := filled(t)
	c := &counting{Store: s}
	a := serve(t, c)
	_, l := beginOn(t, d, Options{Servers: []Server{TCP(a.address)}, Reads: 1, Writes: 1})
	must(t, l.AwaitAcknowledged(limited(t), 50))
	must(t, l.Pause(limited(t)))
	must(t, l.Pause(limited(t)))
	calls, n := c.calls.Load(), l.Acknowledged()
	ctx, cancel := context.WithTimeout(limited(t), 20*time.Millisecond)
	defer cancel()
	if err := l.AwaitMore(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for requests during a pause ended with %v", err)
	}
	if c.calls.Load() != calls || l.Acknowledged() != n {
		t.Error("requests were made during a pause")
	}
	l.Resume()
	must(t, l.AwaitMore(limited(t), 50))
	must(t, l.Pause(limited(t)))
	must(t, l.Stop(limited(t))) // also during a pause
}

func TestTwoLoadsShareADisk(t *testing.T) {
	d, s := filled(t)
	a := serve(t, s)
	_, one := beginOn(t, d, Options{Servers: []Server{TCP(a.address)}, Seed: 1})
	_, two := beginOn(t, d, Options{Servers: []Server{TCP(a.address)}, Seed: 1})
	must(t, one.AwaitAcknowledged(limited(t), 100))
	must(t, two.AwaitAcknowledged(limited(t), 100))
	must(t, one.Stop(limited(t)))
	must(t, two.Stop(limited(t)))
	r, err := d.Check(limited(t), reading{s})
	must(t, err)
	if uint64(r.Requests) != one.Acknowledged()+two.Acknowledged() {
		t.Errorf("%v", r)
	}
}

func TestPaceKeepsToTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pace{rate: 1 << 20}
		began := time.Now()
		for range 65 {
			if !p.wait(64<<10, nil) {
				t.Fatal("stopped")
			}
		}
		if took := time.Since(began); took < 4*time.Second || took > 4*time.Second+time.Millisecond {
			t.Errorf("4 MiB at 1 MiB/s took %v", took)
		}
		time.Sleep(time.Minute) // in the bubble: an idle time is not caught up with
		began = time.Now()
		for range 17 {
			p.wait(64<<10, nil)
		}
		if took := time.Since(began); took < time.Second {
			t.Errorf("1 MiB after an idle time took %v", took)
		}
		stop := make(chan struct{})
		close(stop)
		if p.wait(1, stop) {
			t.Error("not stopped")
		}
	})
}

func TestThrottledLoadKeepsToItsRate(t *testing.T) {
	a := serve(t, memstore.New(diskSize))
	_, l := begin(t, Options{Servers: []Server{TCP(a.address)}, BytesPerSecond: 1 << 20}.RandomWrites())
	began := time.Now()
	must(t, l.AwaitAcknowledged(limited(t), 65)) // the first one goes at once
	if took := time.Since(began); took < 250*time.Millisecond {
		t.Errorf("256 KiB at 1 MiB/s took %v", took)
	}
	must(t, l.Stop(limited(t)))
}

func TestRequestsStayInsideTheirBounds(t *testing.T) {
	for _, o := range []Options{
		{},
		{Align: 4096},
		{Hot: -1, Smallest: SectorSize, Largest: 1 << 20},
		{Hot: 1 << 30, Smallest: 1 << 20, Largest: 3 << 20},
		Options{Reads: 3}.RandomWrites(),
	} {
		o.Servers = []Server{TCP("nowhere")}
		const size = 4<<20 + 3*SectorSize
		o, err := o.filled(size)
		must(t, err)
		p := newPicker(o, size, 0)
		kinds := map[kind]int{}
		for range 10000 {
			k, off, length := p.next()
			kinds[k]++
			if off < 0 || length < o.Smallest || length > o.Largest || off+length > size || off%o.Align != 0 || length%o.Align != 0 {
				t.Fatalf("%+v: %d bytes at %d", o, length, off)
			}
		}
		for k, share := range []int{o.Reads, o.Writes, o.Zeroes} {
			if (kinds[kind(k)] > 0) != (share > 0) {
				t.Errorf("%+v: kinds %v", o, kinds)
			}
		}
	}
}

func TestTheSeedDecidesTheRequests(t *testing.T) {
	o, err := Options{Servers: []Server{TCP("nowhere")}, Seed: 9}.filled(diskSize)
	must(t, err)
	one, same, other := newPicker(o, diskSize, 1), newPicker(o, diskSize, 1), newPicker(o, diskSize, 2)
	differ := false
	for range 100 {
		k1, off1, n1 := one.next()
		k2, off2, n2 := same.next()
		_, off3, _ := other.next()
		if k1 != k2 || off1 != off2 || n1 != n2 {
			t.Fatal("the same seed gives other requests")
		}
		differ = differ || off1 != off3
	}
	if !differ {
		t.Error("two connections make the same requests")
	}
}

func TestBadOptionsAreRefused(t *testing.T) {
	nowhere := []Server{TCP("nowhere")}
	for _, o := range []Options{
		{},
		{Servers: nowhere, Connections: -1},
		{Servers: nowhere, Writes: -1},
		{Servers: nowhere, Align: 100},
		{Servers: nowhere, Smallest: 700},
		{Servers: nowhere, Smallest: 8192, Largest: 4096},
		{Servers: nowhere, Largest: diskSize * 2},
	} {
		if _, err := NewLoad(NewDisk(diskSize), o); err == nil || !strings.HasPrefix(err.Error(), "journal: ") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestQuantilesOfPauses(t *testing.T) {
	var p Pauses
	if p.Longest() != 0 {
		t.Error("nothing has a longest pause")
	}
	for i := range 1000 {
		p = append(p, time.Duration(i+1))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 500, 0.99: 990, 0.999: 999, 1: 1000} {
		if got := p.Quantile(q); got != want {
			t.Errorf("quantile %v is %d, want %d", q, got, want)
		}
	}
}
