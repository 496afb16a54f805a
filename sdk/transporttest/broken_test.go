// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// twisted is a correct transport with something wrong about it. Nil members
// leave the correct ones in place.
type twisted struct {
	transport.Transport
	listen   func(context.Context, transport.Address) (transport.Listener, error)
	dial     func(ctx context.Context, addr, bind transport.Address) (transport.Conn, error)
	listener func(transport.Listener) *twistedListener

	unresponsive transport.Address // the subject's
}

func (w *twisted) Listen(ctx context.Context, addr transport.Address) (transport.Listener, error) {
	listen := w.Transport.Listen
	if w.listen != nil {
		listen = w.listen
	}
	l, err := listen(ctx, addr)
	if err != nil || w.listener == nil {
		return l, err
	}
	twist := w.listener(l)
	twist.Listener = l
	return twist, nil
}

func (w *twisted) Dial(ctx context.Context, addr, bind transport.Address) (transport.Conn, error) {
	if w.dial != nil {
		return w.dial(ctx, addr, bind)
	}
	return w.Transport.Dial(ctx, addr, bind)
}

type twistedListener struct {
	transport.Listener
	accept  func(context.Context) (transport.Conn, error)
	address func() transport.Address
	close   func() error
}

func (w *twistedListener) Accept(ctx context.Context) (transport.Conn, error) {
	if w.accept != nil {
		return w.accept(ctx)
	}
	return w.Listener.Accept(ctx)
}

func (w *twistedListener) Address() transport.Address {
	if w.address != nil {
		return w.address()
	}
	return w.Listener.Address()
}

func (w *twistedListener) Close() error {
	if w.close != nil {
		return w.close()
	}
	return w.Listener.Close()
}

// twist is one way to break the contract.
type twist struct {
	name   string
	clause string // the clause that must notice
	says   string // what its error must contain
	apply  func(testing.TB, *twisted)

	// patience is the trial's, shortened where noticing means waiting for
	// it, but not below what the steps before that take. 0 means patience.
	patience time.Duration
}

// eachListener makes a twist of something that concerns only listeners.
func eachListener(f func(tb testing.TB, l transport.Listener) *twistedListener) func(testing.TB, *twisted) {
	return func(tb testing.TB, w *twisted) {
		w.listener = func(l transport.Listener) *twistedListener { return f(tb, l) }
	}
}

// eachAccepted makes a twist of something done to every accepted connection.
func eachAccepted(f func(testing.TB, transport.Conn) (transport.Conn, error)) func(testing.TB, *twisted) {
	return eachListener(func(tb testing.TB, l transport.Listener) *twistedListener {
		return &twistedListener{accept: func(ctx context.Context) (transport.Conn, error) {
			c, err := l.Accept(ctx)
			if err != nil {
				return c, err
			}
			return f(tb, c)
		}}
	})
}

// brief is enough for a few connections on a busy machine.
const brief = 750 * time.Millisecond

var twists = []twist{
	{"reports the port that was asked for", "ListenReportsDialableAddress", "at the reported address",
		eachListener(func(_ testing.TB, l transport.Listener) *twistedListener {
			return &twistedListener{address: func() transport.Address {
				return transport.Address{Addr: l.Address().Addr}
			}}
		}), 0},
	{"returns neither listener nor error", "ListenReportsDialableAddress", "neither a listener nor an error",
		func(_ testing.TB, w *twisted) {
			w.listen = func(context.Context, transport.Address) (transport.Listener, error) { return nil, nil }
		}, 0},
	{"returns neither socket nor error", "DialReachesAccept", "neither a socket nor an error",
		eachAccepted(func(_ testing.TB, c transport.Conn) (transport.Conn, error) {
			return transport.Conn{}, c.Socket.Close()
		}), 0},
	{"serves one connection only", "DialReachesAccept", "hangs", eachListener(servesOne), brief},
	{"flips a bit after 3 MiB", "BytesFlowBothWays", "byte 3145728", eachAccepted(relayed(corrupt)), 0},
	{"loses the end of file", "HalfCloseReadsAsEndOfFile", "Read returns 0", eachAccepted(relayed(endless)), 4 * brief},
	{"wraps the socket", "SocketIsTCPOrUnix", "must be a *net.TCPConn",
		eachAccepted(func(_ testing.TB, c transport.Conn) (transport.Conn, error) {
			c.Socket = struct{ net.Conn }{c.Socket}
			return c, nil
		}), 0},
	{"takes itself for the peer", "PeerIsWhoDialled", "it dialled from",
		eachAccepted(func(_ testing.TB, c transport.Conn) (transport.Conn, error) {
			c.Peer.Address = c.Socket.LocalAddr().String()
			return c, nil
		}), 0},
	{"names no network", "PeerIsWhoDialled", "Peer.Network is empty",
		eachAccepted(func(_ testing.TB, c transport.Conn) (transport.Conn, error) {
			c.Peer.Network = ""
			return c, nil
		}), 0},
	{"ignores bind", "DialComesFromBind", "was dialled from 127.0.0.2",
		func(_ testing.TB, w *twisted) {
			w.dial = func(ctx context.Context, addr, _ transport.Address) (transport.Conn, error) {
				return w.Transport.Dial(ctx, addr, transport.Address{})
			}
		}, 0},
	{"accepts each connection twice", "EachDialMeetsOneAccept", "accepted", eachListener(acceptsTwice), brief},
	{"drops every tenth connection", "EachDialMeetsOneAccept", "", eachListener(dropsTenth), brief},
	{"fails on a broken connection", "BrokenConnectionDoesNotFailAccept", "after connections that broke",
		eachAccepted(func(_ testing.TB, c transport.Conn) (transport.Conn, error) {
			if err := sniff(c.Socket); err != nil {
				return transport.Conn{}, errors.Join(err, c.Socket.Close())
			}
			return c, nil
		}), 0},
	{"closes connections with the listener", "ConnectionsOutliveListener", "after the listener's Close", eachListener(closesAll), 0},
	{"leaves Accepts waiting on Close", "CloseEndsAccepts", "hangs", eachListener(closeWakesNobody), brief},
	{"ends Accepts with io.EOF", "CloseEndsAccepts", "net.ErrClosed",
		eachListener(func(_ testing.TB, l transport.Listener) *twistedListener {
			return &twistedListener{accept: func(ctx context.Context) (transport.Conn, error) {
				c, err := l.Accept(ctx)
				if errors.Is(err, net.ErrClosed) {
					err = io.EOF
				}
				return c, err
			}}
		}), 0},
	{"listens on after Close", "CloseStopsListening", "succeeds after the listener's Close", eachListener(closeDoesNothing), 0},
	{"listens on after Close", "ClosedAddressCanBeUsedAgain", "after Close of the first", eachListener(closeDoesNothing), 0},
	{"Accept ignores its context", "ContextEndsAccept", "hangs", eachListener(deafAccept), brief},
	{"one context ends every Accept", "ContextEndsAccept", "context canceled", eachListener(sharedFate), 0},
	{"Dial ignores its context", "ContextEndsDial", "whose context has ended",
		func(_ testing.TB, w *twisted) {
			w.dial = func(_ context.Context, addr, bind transport.Address) (transport.Conn, error) {
				return w.Transport.Dial(context.Background(), addr, bind)
			}
		}, 0},
	{"Dial looks at its context only at first", "ContextEndsDial", "under way", deafDial, brief},
	{"a cancelled Accept takes the next connection", "CancelledAcceptLosesNoConnection", "hangs", eachListener(thief), brief},
	{"a connection that meets a cancellation is closed", "CancelledAcceptLosesNoConnection", "race", eachListener(dropsOnCancel), brief},
	{"two may listen at one address", "ListenTwiceFailsNamingAddress", "a second Listen", listensTwice, 0},
	{"Listen's error is vague", "ListenTwiceFailsNamingAddress", "does not name the address",
		func(_ testing.TB, w *twisted) {
			w.listen = func(ctx context.Context, addr transport.Address) (transport.Listener, error) {
				l, err := w.Transport.Listen(ctx, addr)
				return l, vague(err)
			}
		}, 0},
	{"Dial's error is vague", "DialNobodyFailsNamingAddress", "does not name the address",
		func(_ testing.TB, w *twisted) {
			w.dial = func(ctx context.Context, addr, bind transport.Address) (transport.Conn, error) {
				c, err := w.Transport.Dial(ctx, addr, bind)
				return c, vague(err)
			}
		}, 0},
	{"keeps a copy of every socket", "NoDescriptorLeaks", "did not have before: 1 of socket:", eachAccepted(keepsCopy), brief},
}

// TestBrokenTransportsFail shows of each twist that its clause notices, and
// says what is wrong.
func TestBrokenTransportsFail(t *testing.T) {
	for _, twist := range twists {
		t.Run(twist.clause+"/"+twist.name, func(t *testing.T) {
			if twist.clause != "NoDescriptorLeaks" {
				t.Parallel() // They mostly wait.
			}
			s := tcpSubject(t)
			w := &twisted{Transport: s.Transport}
			s.Transport = w
			twist.apply(t, w)
			s.Unresponsive = w.unresponsive
			err := try(t.Context(), s, cmp.Or(twist.patience, patience), clauseNamed(t, twist.clause).check)
			if err == nil {
				t.Fatal("the clause does not notice")
			}
			if !strings.Contains(err.Error(), twist.says) {
				t.Fatalf("the clause says %q; it should say something about %q", err, twist.says)
			}
		})
	}
}

// TestEveryClauseCanFail: a clause without a twist might be one that holds
// whatever the transport does.
func TestEveryClauseCanFail(t *testing.T) {
	for _, c := range clauses {
		found := false
		for _, twist := range twists {
			found = found || twist.clause == c.name
		}
		if !found {
			t.Errorf("no broken transport shows that %s can fail", c.name)
		}
	}
}

func clauseNamed(t *testing.T, name string) clause {
	for _, c := range clauses {
		if c.name == name {
			return c
		}
	}
	t.Fatalf("there is no clause %q", name)
	return clause{}
}

func vague(err error) error {
	if err != nil {
		return errors.New("something went wrong")
	}
	return nil
}

func servesOne(tb testing.TB, l transport.Listener) *twistedListener {
	var served atomic.Bool
	over := untilCleanup(tb)
	return &twistedListener{accept: func(ctx context.Context) (transport.Conn, error) {
		if served.Swap(true) {
			<-over
			return transport.Conn{}, net.ErrClosed
		}
		return l.Accept(ctx)
	}}
}

// acceptsTwice returns a copy of each accepted socket once more.
func acceptsTwice(tb testing.TB, l transport.Listener) *twistedListener {
	var mu sync.Mutex
	var again []transport.Conn
	return &twistedListener{accept: func(ctx context.Context) (transport.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if len(again) > 0 {
			c := again[0]
			again = again[1:]
			return c, nil
		}
		c, err := l.Accept(ctx)
		if err != nil {
			return c, err
		}
		second, err := duplicate(c)
		if err == nil {
			tb.Cleanup(func() { _ = second.Socket.Close() })
			again = append(again, second)
		}
		return c, err
	}}
}

func dropsTenth(_ testing.TB, l transport.Listener) *twistedListener {
	var n atomic.Int64
	return &twistedListener{accept: func(ctx context.Context) (transport.Conn, error) {
		c, err := l.Accept(ctx)
		if err == nil && n.Add(1)%10 == 0 {
			_ = c.Socket.Close()
			c, err = l.Accept(ctx)
		}
		return c, err
	}}
}

func closesAll(_ testing.TB, l transport.Listener) *twistedListener {
	var mu sync.Mutex
	var all []net.Conn
	return &twistedListener{
		accept: func(ctx context.Context) (transport.Conn, error) {
			c, err := l.Accept(ctx)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				all = append(all, c.Socket)
			}
			return c, err
		},
		close: func() error {
			mu.Lock()
			defer mu.Unlock()
			for _, c := range all {
				_ = c.Close()
			}
			return l.Close()
		},
	}
}

func closeWakesNobody(tb testing.TB, l transport.Listener) *twistedListener {
	over := untilCleanup(tb)
	return &twistedListener{accept: func(ctx context.Context) (transport.Conn, error) {
		c, err := l.Accept(ctx)
		if errors.Is(err, net.ErrClosed) {
			<-over
		}
		return c, err
	}}
}

func closeDoesNothing(testing.TB, transport.Listener) *twistedListener {
	return &twistedListener{close: func() error { return nil }}
}

func deafAccept(_ testing.TB, l transport.Listener) *twistedListener {
	return &twistedListener{accept: func(context.Context) (transport.Conn, error) {
		return l.Accept(context.Background())
	}}
}

// sharedFate ends every Accept when any Accept's context does.
func sharedFate(_ testing.TB, l transport.Listener) *twistedListener {
	all, end := context.WithCancel(context.Background())
	return &twistedListener{accept: func(ctx context.Context) (transport.Conn, error) {
		if err := ctx.Err(); err != nil {
			return transport.Conn{}, err
		}
		defer context.AfterFunc(ctx, end)()
		c, err := l.Accept(all)
		if err != nil && ctx.Err() != nil {
			err = ctx.Err()
		}
		return c, err
	}}
}

// thief leaves a goroutine behind that accepts for a call that is gone.
func thief(_ testing.TB, l transport.Listener) *twistedListener {
	return &twistedListener{accept: func(ctx context.Context) (transport.Conn, error) {
		type result struct {
			conn transport.Conn
			err  error
		}
		results := make(chan result, 1)
		go func() {
			c, err := l.Accept(context.Background())
			results <- result{c, err}
		}()
		select {
		case r := <-results:
			return r.conn, r.err
		case <-ctx.Done():
			return transport.Conn{}, ctx.Err()
		}
	}}
}

// dropsOnCancel accepts, sees that its context has ended meanwhile, and throws
// the connection away.
func dropsOnCancel(_ testing.TB, l transport.Listener) *twistedListener {
	return &twistedListener{accept: func(ctx context.Context) (transport.Conn, error) {
		c, err := l.Accept(ctx)
		if err != nil {
			return c, err
		}
		pause(ctx, time.Millisecond)
		if ctx.Err() != nil {
			_ = c.Socket.Close()
			return transport.Conn{}, ctx.Err()
		}
		return c, nil
	}}
}

// deafDial hangs at the unresponsive address whatever its context says.
func deafDial(tb testing.TB, w *twisted) {
	over := untilCleanup(tb)
	w.unresponsive = transport.Address{Addr: "192.0.2.1", Port: 1}
	w.dial = func(ctx context.Context, addr, bind transport.Address) (transport.Conn, error) {
		if addr == w.unresponsive {
			<-over
			return transport.Conn{}, io.ErrUnexpectedEOF
		}
		return w.Transport.Dial(ctx, addr, bind)
	}
}

// listensTwice sets SO_REUSEPORT.
func listensTwice(tb testing.TB, w *twisted) {
	w.listen = func(ctx context.Context, addr transport.Address) (transport.Listener, error) {
		const soReusePort = 15
		config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			return errors.Join(raw.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soReusePort, 1)
			}), err)
		}}
		l, err := config.Listen(ctx, "tcp", addr.String())
		if err != nil {
			return nil, err
		}
		r := reference{network: "tcp", tb: tb}
		return &referenceListener{reference: r, socket: l, turn: make(chan struct{}, 1), closed: make(chan struct{})}, nil
	}
}

func keepsCopy(tb testing.TB, c transport.Conn) (transport.Conn, error) {
	file, err := c.Socket.(*net.TCPConn).File()
	if err == nil {
		tb.Cleanup(func() { _ = file.Close() })
	}
	return c, err
}

// sniff tells whether the other end has gone already.
func sniff(socket net.Conn) error {
	raw, err := socket.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var broken error
	err = raw.Read(func(fd uintptr) bool {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		if err != nil && err != syscall.EAGAIN {
			broken = fmt.Errorf("accept: %w", err)
		} else if err == nil && n == 0 {
			broken = errors.New("accept: the peer is gone")
		}
		return true
	})
	return errors.Join(err, broken)
}

func duplicate(c transport.Conn) (transport.Conn, error) {
	file, err := c.Socket.(*net.TCPConn).File()
	if err != nil {
		return transport.Conn{}, err
	}
	defer file.Close()
	c.Socket, err = net.FileConn(file)
	return c, err
}

// relayed puts a socketpair between the core and the socket, as a transport
// does that cannot hand over the socket itself. Copy passes on what arrives.
func relayed(copy func(to *net.UnixConn, from *net.TCPConn)) func(testing.TB, transport.Conn) (transport.Conn, error) {
	return func(tb testing.TB, c transport.Conn) (transport.Conn, error) {
		near, far, err := socketpair()
		if err != nil {
			return transport.Conn{}, err
		}
		outer := c.Socket.(*net.TCPConn)
		var relays, closing sync.WaitGroup
		relays.Go(func() { copy(far, outer) })
		relays.Go(func() { _, _ = io.Copy(outer, far); _ = outer.CloseWrite() })
		closing.Go(func() {
			relays.Wait()
			_, _ = far.Close(), outer.Close()
		})
		tb.Cleanup(func() {
			_, _ = far.Close(), outer.Close()
			closing.Wait()
		})
		c.Socket = near
		return c, nil
	}
}

// relay is what an honest relay does.
func relay(to *net.UnixConn, from *net.TCPConn) {
	_, _ = io.Copy(to, from)
	_ = to.CloseWrite()
}

func corrupt(to *net.UnixConn, from *net.TCPConn) {
	_, _ = io.CopyN(to, from, 3<<20)
	var b [1]byte
	_, _ = io.ReadFull(from, b[:])
	_, _ = to.Write([]byte{b[0] ^ 1})
	_, _ = io.Copy(to, from)
	_ = to.CloseWrite()
}

func endless(to *net.UnixConn, from *net.TCPConn) {
	_, _ = io.Copy(to, from)
}

func socketpair() (a, b *net.UnixConn, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socketpair")
		conn, failure := net.FileConn(file)
		err = errors.Join(err, failure, file.Close())
		if failure == nil {
			ends[i] = conn.(*net.UnixConn)
		}
	}
	return ends[0], ends[1], err
}

// untilCleanup is closed when the test is over.
func untilCleanup(tb testing.TB) <-chan struct{} {
	over := make(chan struct{})
	tb.Cleanup(func() { close(over) })
	return over
}
