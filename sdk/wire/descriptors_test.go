// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 20 * time.Second

// ends is both ends of a channel in this process.
func ends(t *testing.T) (host, plugin *DescriptorChannel) {
	t.Helper()
	host, child, err := DescriptorPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	plugin, err = NewDescriptorChannel(child)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plugin.Close() })
	return host, plugin
}

// raw is a channel and a bare socket at its other end.
func raw(t *testing.T) (host *DescriptorChannel, fd int) {
	t.Helper()
	host, child, err := DescriptorPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	t.Cleanup(func() { _ = child.Close() })
	return host, int(child.Fd())
}

// file makes a file whose content is text.
func file(t *testing.T, text string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f
}

func content(t *testing.T, f *os.File) string {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<10))
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// descriptors counts what this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// awaitArrived waits until n descriptors wait to be asked for, token's the last.
func awaitArrived(t *testing.T, ch *DescriptorChannel, n int, token uint64) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		ch.mu.Lock()
		have := slices.Clone(ch.order)
		ch.mu.Unlock()
		if len(have) == n && have[n-1] == token {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("descriptors %v wait to be asked for, want %d with %d at the end", have, n, token)
		}
		time.Sleep(time.Millisecond)
	}
}

func awaitDone(t *testing.T, ch *DescriptorChannel) {
	t.Helper()
	select {
	case <-ch.Done():
	case <-time.After(patience):
		t.Fatal("the channel did not end")
	}
}

func TestDescriptorIsMatchedWhicheverComesFirst(t *testing.T) {
	host, plugin := ends(t)
	for _, way := range []struct{ from, to *DescriptorChannel }{{plugin, host}, {host, plugin}} {
		token, err := way.from.Send(file(t, "descriptor first"))
		if err != nil {
			t.Fatal(err)
		}
		awaitArrived(t, way.to, 1, token)
		f, err := way.to.Receive(t.Context(), token)
		if err != nil || content(t, f) != "descriptor first" {
			t.Errorf("Receive: %v", err)
		}
		_ = f.Close()

		received := make(chan *os.File)
		go func() {
			f, err := way.to.Receive(t.Context(), token+1)
			if err != nil {
				t.Error(err)
			}
			received <- f
		}()
		for wanted := 0; wanted == 0; time.Sleep(time.Millisecond) {
			way.to.mu.Lock()
			wanted = len(way.to.wanted)
			way.to.mu.Unlock()
		}
		if next, err := way.from.Send(file(t, "token first")); err != nil || next != token+1 {
			t.Fatalf("token %d, %v", next, err)
		}
		f = <-received
		if content(t, f) != "token first" {
			t.Error("another descriptor was received")
		}
		_ = f.Close()
	}
}

func TestManyDescriptorsAtOnceFindTheirOwners(t *testing.T) {
	host, plugin := ends(t)
	before := descriptors(t)
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			text := string(rune('a' + i))
			r, w, err := os.Pipe()
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = w.Close() }()
			token, err := plugin.Send(r)
			_ = r.Close() // the caller may, at once
			if err != nil {
				t.Error(err)
				return
			}
			f, err := host.Receive(t.Context(), token)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = f.Close() }()
			_, _ = w.WriteString(text)
			_ = w.Close()
			if got, err := io.ReadAll(f); string(got) != text {
				t.Errorf("the pipe of %q gave %q, %v", text, got, err)
			}
		})
	}
	all.Wait()
	if now := descriptors(t); now != before {
		t.Errorf("%d descriptors are open, %d were before", now, before)
	}
}

func TestReceivedDescriptorIsCloseOnExec(t *testing.T) {
	host, plugin := ends(t)
	token, err := plugin.Send(file(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	f, err := host.Receive(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
}

func TestEndOfFileEndsTheChannel(t *testing.T) {
	host, plugin := ends(t)
	token, err := plugin.Send(file(t, "sent before the end"))
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error)
	go func() {
		_, err := host.Receive(t.Context(), 999)
		waiting <- err
	}()
	_ = plugin.Close()
	awaitDone(t, host)
	if err := <-waiting; !errors.Is(err, ErrPluginGone) {
		t.Errorf("a Receive under way: %v", err)
	}
	f, err := host.Receive(t.Context(), token)
	if err != nil {
		t.Errorf("what was sent before the end is lost: %v", err)
	}
	_ = f.Close()
	if _, err := host.Receive(t.Context(), token); !errors.Is(err, ErrPluginGone) {
		t.Errorf("a later Receive: %v", err)
	}
	if _, err := host.Send(file(t, "")); err == nil {
		t.Error("Send succeeds although nobody is there")
	}
}

func TestContextEndsReceive(t *testing.T) {
	host, _ := ends(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := host.Receive(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Receive: %v", err)
	}
	if len(host.wanted) != 0 {
		t.Errorf("%d calls are still waited for", len(host.wanted))
	}
}

func TestBadMessageEndsTheChannelAndLeaksNothing(t *testing.T) {
	good := binary.BigEndian.AppendUint64(nil, 1)
	fds := func(n int) (fds []int) {
		for range n {
			fds = append(fds, 2)
		}
		return fds
	}
	for name, c := range map[string]struct {
		msg []byte
		fds []int
	}{
		"no descriptor":         {good, nil},
		"two descriptors":       {good, fds(2)},
		"many descriptors":      {good, fds(200)},
		"short":                 {good[:7], fds(1)},
		"long":                  {append(good[:8:8], 0), fds(1)},
		"very long":             {make([]byte, 4096), fds(1)},
		"no bytes":              {nil, fds(1)},
		"no bytes, descriptors": {nil, fds(3)},
	} {
		t.Run(name, func(t *testing.T) {
			host, fd := raw(t)
			before := descriptors(t)
			var rights []byte
			if c.fds != nil {
				rights = unix.UnixRights(c.fds...)
			}
			if err := unix.Sendmsg(fd, c.msg, rights, nil, 0); err != nil {
				t.Fatal(err)
			}
			awaitDone(t, host)
			if now := descriptors(t); now != before {
				t.Errorf("%d descriptors are open, %d were before", now, before)
			}
			if _, err := host.Receive(t.Context(), 1); !errors.Is(err, ErrPluginGone) {
				t.Errorf("Receive: %v", err)
			}
		})
	}
}

func TestOldestUnclaimedDescriptorGoesFirst(t *testing.T) {
	host, plugin := ends(t)
	f := file(t, "")
	before := descriptors(t)
	const more = 10
	for range maxUnclaimed + more {
		if _, err := plugin.Send(f); err != nil {
			t.Fatal(err)
		}
	}
	awaitArrived(t, host, maxUnclaimed, maxUnclaimed+more)
	if now := descriptors(t); now != before+maxUnclaimed {
		t.Errorf("%d descriptors are kept, want %d", now-before, maxUnclaimed)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for token := uint64(1); token <= maxUnclaimed+more; token++ {
		f, err := host.Receive(ended, token)
		if kept := token > more; kept != (err == nil) {
			t.Errorf("descriptor %d: %v", token, err)
		}
		_ = f.Close()
	}
	if now := descriptors(t); now != before {
		t.Errorf("%d descriptors are left", now-before)
	}
}

func TestRepeatedTokenKeepsTheLastDescriptor(t *testing.T) {
	host, fd := raw(t)
	before := descriptors(t)
	token := binary.BigEndian.AppendUint64(nil, 7)
	first, second := file(t, "first"), file(t, "second")
	before += 2
	for _, f := range []*os.File{first, second} {
		if err := unix.Sendmsg(fd, token, unix.UnixRights(int(f.Fd())), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Sendmsg(fd, binary.BigEndian.AppendUint64(nil, 8), unix.UnixRights(2), nil, 0); err != nil {
		t.Fatal(err)
	}
	awaitArrived(t, host, 2, 8) // in order, so both of 7 have come
	f, err := host.Receive(t.Context(), 7)
	if err != nil || content(t, f) != "second" {
		t.Errorf("Receive: %v", err)
	}
	_ = f.Close()
	_ = host.Close()
	if now := descriptors(t); now != before-1 { // without the host's end
		t.Errorf("%d descriptors are open, want %d", now, before-1)
	}
}

func TestCloseClosesWhatNobodyAskedFor(t *testing.T) {
	before := descriptors(t)
	host, plugin := ends(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := plugin.Send(w); err != nil {
			t.Fatal(err)
		}
	}
	awaitArrived(t, host, 5, 5)
	_ = w.Close()
	_ = host.Close()
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("somebody still holds the pipe: %v", err)
	}
	_ = r.Close()
	_ = plugin.Close()
	if now := descriptors(t); now != before {
		t.Errorf("%d descriptors are open, %d were before", now, before)
	}
}

func TestUnclaimedDescriptorIsClosedInTime(t *testing.T) {
	claimed, forgotten := file(t, ""), file(t, "")
	synctest.Test(t, func(t *testing.T) {
		ch := &DescriptorChannel{done: make(chan struct{}), arrived: map[uint64]unclaimed{}, wanted: map[uint64]chan *os.File{}}
		ch.deliver(1, forgotten)
		ch.deliver(2, claimed)
		time.Sleep(unclaimedLife - time.Nanosecond)
		if f, err := ch.Receive(t.Context(), 2); f != claimed || err != nil {
			t.Errorf("Receive just in time: %v", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if len(ch.arrived) != 0 || len(ch.order) != 0 {
			t.Errorf("%d descriptors are kept", len(ch.arrived))
		}
	})
	if _, err := forgotten.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the forgotten descriptor is open: %v", err)
	}
	if _, err := claimed.Stat(); err != nil {
		t.Errorf("the claimed descriptor is closed: %v", err)
	}
}

// withoutDescriptors runs f while this process can open nothing more.
func withoutDescriptors(t *testing.T, f func()) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	// New descriptors get the lowest free number, so the gaps are filled first.
	var fill []int
	defer func() {
		for _, fd := range fill {
			_ = unix.Close(fd)
		}
	}()
	low := limit
	low.Cur = 0
	for _, name := range numbers(t) {
		low.Cur = max(low.Cur, uint64(name)+1)
	}
	low.Cur += 4
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) }()
	for {
		fd, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			break
		}
		fill = append(fill, fd)
	}
	f()
}

// numbers returns this process's open descriptors.
func numbers(t *testing.T) (fds []int) {
	t.Helper()
	var st unix.Stat_t
	for fd := range 4096 {
		if unix.Fstat(fd, &st) == nil {
			fds = append(fds, fd)
		}
	}
	return fds
}

func TestDescriptorWithoutRoomIsLostAndTheChannelLives(t *testing.T) {
	host, plugin := ends(t)
	f := file(t, "later")
	withoutDescriptors(t, func() {
		token, err := plugin.Send(f)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := host.Receive(t.Context(), token); !errors.Is(err, syscall.EMFILE) {
			t.Errorf("Receive with no descriptor free: %v", err)
		}
	})
	token, err := plugin.Send(f)
	if err != nil {
		t.Fatal(err)
	}
	got, err := host.Receive(t.Context(), token)
	if err != nil || content(t, got) != "later" {
		t.Errorf("Receive with descriptors free again: %v", err)
	}
	_ = got.Close()
}

func TestChannelRefusesWhatIsNoChannel(t *testing.T) {
	stream, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(stream[1]) }()
	before := descriptors(t)
	for name, f := range map[string]*os.File{"stream": os.NewFile(uintptr(stream[0]), "stream"), "file": file(t, "")} {
		if ch, err := NewDescriptorChannel(f); err == nil {
			_ = ch.Close()
			t.Errorf("a %s is taken for a channel", name)
		}
	}
	if now := descriptors(t); now != before-1 { // the stream's; the file came later
		t.Errorf("%d descriptors are open, want %d", now, before-1)
	}
}

// FuzzDecodeDescriptor only takes messages apart: a number that a fuzzer made up
// may be a descriptor of this process, so nothing here closes one.
func FuzzDecodeDescriptor(f *testing.F) {
	good := binary.BigEndian.AppendUint64(nil, 42)
	f.Add(good, unix.UnixRights(5), 0)
	f.Add(good, unix.UnixRights(5, 6), 0)
	f.Add(good, []byte(nil), unix.MSG_CTRUNC)
	f.Add(good[:3], unix.UnixRights(5), unix.MSG_TRUNC)
	f.Fuzz(func(t *testing.T, msg, oob []byte, flags int) {
		token, fds, err := decodeDescriptor(msg, oob, flags)
		if len(fds) > len(oob)/4 {
			t.Errorf("%d descriptors out of %d bytes", len(fds), len(oob))
		}
		if err != nil {
			return
		}
		if len(msg) != tokenSize || token != binary.BigEndian.Uint64(msg) {
			t.Errorf("token %d out of %x", token, msg)
		}
		if lost := flags&unix.MSG_CTRUNC != 0; lost != (len(fds) == 0) || len(fds) > 1 {
			t.Errorf("a good message with %d descriptors and flags %#x", len(fds), flags)
		}
	})
}
