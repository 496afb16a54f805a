// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DescriptorChannel carries open descriptors between a host and a plugin, over
// a Unix socket of type SOCK_SEQPACKET. Each message is a token, 8 bytes big
// endian, with exactly one descriptor attached (SCM_RIGHTS); a message of a gRPC
// call names the token, and the two are matched here, whichever comes first.
//
// Both ends may send. End-of-file means that the process at the other end is
// gone.
//
// All methods may be called from many goroutines.
type DescriptorChannel struct {
	conn *net.UnixConn
	done chan struct{} // closed when the read loop has ended

	mu      sync.Mutex
	next    uint64                   // the last token sent
	arrived map[uint64]unclaimed     // nobody has asked for these yet
	order   []uint64                 // tokens in arrived, oldest first
	wanted  map[uint64]chan *os.File // somebody waits for these
}

// unclaimed is a descriptor that has arrived before it was asked for. Its file
// is nil if the kernel had none free to put it in.
type unclaimed struct {
	file   *os.File
	expiry *time.Timer
}

const (
	tokenSize = 8
	// maxUnclaimed bounds the descriptors that wait to be asked for, well above
	// the calls that are under way at a time: a descriptor mostly comes before
	// the answer that names it. A call that was given up may leave one behind;
	// the oldest goes first.
	maxUnclaimed = 1024
	// unclaimedLife is how long such a one is kept: whoever asks does so within
	// moments, and a socket that nobody wants keeps its peer waiting.
	unclaimedLife = 2 * descriptorWait
)

// NewDescriptorChannel takes over f, one end of a SOCK_SEQPACKET socketpair.
// Close ends it.
func NewDescriptorChannel(f *os.File) (*DescriptorChannel, error) {
	c, err := net.FileConn(f)
	_ = f.Close() // FileConn works on a duplicate
	if err != nil {
		return nil, fmt.Errorf("descriptor channel: %w", err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("descriptor channel: a %T is no Unix socket", c)
	}
	if network := conn.LocalAddr().Network(); network != "unixpacket" {
		_ = c.Close()
		return nil, fmt.Errorf("descriptor channel: a socket of type %s does not keep messages apart", network)
	}
	ch := &DescriptorChannel{
		conn:    conn,
		done:    make(chan struct{}),
		arrived: map[uint64]unclaimed{},
		wanted:  map[uint64]chan *os.File{},
	}
	go ch.receive()
	return ch, nil
}

// DescriptorPair makes both ends of a channel: one for this process, one to
// hand to a child.
func DescriptorPair() (host *DescriptorChannel, child *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("descriptor channel: socketpair: %w", err)
	}
	child = os.NewFile(uintptr(fds[1]), "descriptor-channel")
	host, err = NewDescriptorChannel(os.NewFile(uintptr(fds[0]), "descriptor-channel"))
	if err != nil {
		_ = child.Close()
		return nil, nil, err
	}
	return host, child, nil
}

// Send sends a duplicate of the socket or file behind c and returns the token
// that names it. The caller keeps c and may close it at once.
func (ch *DescriptorChannel) Send(c syscall.Conn) (token uint64, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("descriptor channel: %w", err)
	}
	ch.mu.Lock()
	ch.next++
	token = ch.next
	ch.mu.Unlock()

	msg := binary.BigEndian.AppendUint64(nil, token)
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		_, _, sendErr = ch.conn.WriteMsgUnix(msg, unix.UnixRights(int(fd)), nil)
	})
	err = errors.Join(err, sendErr)
	switch {
	case errors.Is(err, net.ErrClosed), errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		return 0, fmt.Errorf("descriptor channel: %w: %w", ErrPluginGone, err)
	case err != nil:
		return 0, fmt.Errorf("descriptor channel: %w", err)
	}
	return token, nil
}

// Receive waits for the descriptor that token names and hands it over; the
// caller closes it. It fails with ErrPluginGone when the channel ends first, and
// with EMFILE when it came and this process had no descriptor free for it.
func (ch *DescriptorChannel) Receive(ctx context.Context, token uint64) (*os.File, error) {
	ch.mu.Lock()
	if _, ok := ch.arrived[token]; ok {
		f := ch.forget(token)
		ch.mu.Unlock()
		return received(token, f)
	}
	wait := make(chan *os.File, 1)
	ch.wanted[token] = wait
	ch.mu.Unlock()

	select {
	case f := <-wait:
		return received(token, f)
	case <-ctx.Done():
	case <-ch.done:
	}
	ch.mu.Lock()
	delete(ch.wanted, token)
	ch.mu.Unlock()
	select {
	case f := <-wait: // it came while we were giving up
		return received(token, f)
	default:
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("descriptor %d did not arrive: %w", token, ErrPluginGone)
}

func received(token uint64, f *os.File) (*os.File, error) {
	if f == nil {
		return nil, fmt.Errorf("descriptor %d is lost: this process has too many files open; raise its limit (ulimit -n, LimitNOFILE=): %w", token, unix.EMFILE)
	}
	return f, nil
}

// Done is closed when the other end is gone or Close was called.
func (ch *DescriptorChannel) Done() <-chan struct{} { return ch.done }

// Close ends the channel and closes the descriptors that nobody asked for.
func (ch *DescriptorChannel) Close() error {
	err := ch.conn.Close()
	<-ch.done
	ch.mu.Lock()
	defer ch.mu.Unlock()
	for token := range ch.arrived {
		_ = ch.forget(token).Close()
	}
	return err
}

// receive runs until end-of-file, or until the peer breaks the rules.
func (ch *DescriptorChannel) receive() {
	defer close(ch.done)
	buf := make([]byte, tokenSize+1)
	oob := make([]byte, unix.CmsgSpace(4*8))
	for {
		n, oobn, flags, _, err := ch.conn.ReadMsgUnix(buf, oob)
		// A message of no bytes reads as end-of-file and may still have brought
		// a descriptor, so what came is looked at in any case.
		token, fds, decodeErr := decodeDescriptor(buf[:max(n, 0)], oob[:oobn], flags)
		if err != nil || decodeErr != nil {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
			return
		}
		var f *os.File
		if len(fds) > 0 {
			f = os.NewFile(uintptr(fds[0]), "received")
		}
		ch.deliver(token, f)
	}
}

// decodeDescriptor takes one message apart. It returns every descriptor that
// came with it, also beside an error: they are the caller's to close. A good
// message has one, or none where this process had no room for it.
func decodeDescriptor(msg, oob []byte, flags int) (token uint64, fds []int, err error) {
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	for i := range cmsgs {
		if len(cmsgs[i].Data)%4 != 0 { // ParseUnixRights would panic
			continue
		}
		got, rightsErr := unix.ParseUnixRights(&cmsgs[i])
		if rightsErr == nil {
			fds = append(fds, got...)
		}
	}
	lost := len(fds) == 0 && flags&unix.MSG_CTRUNC != 0
	whole := len(fds) == 1 && flags&unix.MSG_CTRUNC == 0
	if err != nil || len(msg) != tokenSize || flags&unix.MSG_TRUNC != 0 || !whole && !lost {
		return 0, fds, fmt.Errorf("descriptor channel: a message of %d bytes with %d descriptors", len(msg), len(fds))
	}
	return binary.BigEndian.Uint64(msg), fds, nil
}

func (ch *DescriptorChannel) deliver(token uint64, f *os.File) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if wait, ok := ch.wanted[token]; ok {
		delete(ch.wanted, token)
		wait <- f
		return
	}
	if _, ok := ch.arrived[token]; ok { // a peer that repeats itself
		_ = ch.forget(token).Close()
	}
	if len(ch.order) >= maxUnclaimed {
		_ = ch.forget(ch.order[0]).Close()
	}
	expiry := time.AfterFunc(unclaimedLife, func() { ch.expire(token, f) })
	ch.arrived[token] = unclaimed{file: f, expiry: expiry}
	ch.order = append(ch.order, token)
}

// expire closes f if it still waits to be asked for.
func (ch *DescriptorChannel) expire(token uint64, f *os.File) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if u, ok := ch.arrived[token]; ok && u.file == f {
		_ = ch.forget(token).Close()
	}
}

// forget removes token from what has arrived and returns its file, which is
// nil, and may be closed all the same, if it was lost. ch.mu is held.
func (ch *DescriptorChannel) forget(token uint64) *os.File {
	u := ch.arrived[token]
	u.expiry.Stop()
	delete(ch.arrived, token)
	if i := slices.Index(ch.order, token); i >= 0 {
		ch.order = slices.Delete(ch.order, i, i+1)
	}
	return u.file
}
