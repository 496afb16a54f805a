// SPDX-License-Identifier: GPL-3.0-or-later

package pythonplugin

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

func TestDiskKeepsTheContract(t *testing.T) {
	p, _ := started(t)
	storetest.Run(t, func(t testing.TB, size int64) store.Store { return opened(t, p, ofSize(size)) })
}

func TestReadOnlyDiskKeepsTheContract(t *testing.T) {
	p, _ := started(t)
	storetest.Run(t, func(t testing.TB, size int64) store.Store {
		disk := ofSize(size)
		disk.ReadOnly = true
		return opened(t, p, disk)
	})
}

func TestPluginSaysWhatItIs(t *testing.T) {
	p, _ := started(t)
	d := p.Description()
	if d.Kind != wire.KindBackend || d.Name != "python" || d.Version != "1" || !d.DeclaresOptions || len(d.Options) != 0 || d.License != "Apache-2.0" {
		t.Errorf("it is %+v", d)
	}
}

// The largest message that a host sends, and asks for, is far above gRPC's own limit.
func TestLargestPayloadPasses(t *testing.T) {
	p, _ := started(t)
	const size = 64 << 20
	s := closing(t, p, ofSize(size))
	want := bytes.Repeat([]byte("largest "), size/8)
	if err := s.WriteAt(t.Context(), want, 0, 0); err != nil {
		t.Fatal(err)
	}
	have := make([]byte, size)
	if err := s.ReadAt(t.Context(), have, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("64 MiB read back are not what was written")
	}
}

func TestMapOfManyExtentsPasses(t *testing.T) {
	p, _ := started(t)
	const page, runs = 64 << 10, 4096
	s := closing(t, p, ofSize(runs*page))
	var writers sync.WaitGroup
	for first := range 8 {
		writers.Go(func() {
			for n := 1 + 2*first; n < runs; n += 16 {
				if err := s.WriteAt(t.Context(), []byte("x"), int64(n)*page, 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	extents, err := s.Extents(t.Context(), 0, runs*page)
	if err != nil || len(extents) != runs {
		t.Fatalf("%d extents (%v), want %d", len(extents), err, runs)
	}
	for i, e := range extents {
		want := store.Extent{Offset: int64(i) * page, Length: page, State: store.Hole | store.Zero}
		if i%2 == 1 {
			want.State = store.Data
		}
		if e != want {
			t.Fatalf("extent %d is %+v, want %+v", i, e, want)
		}
	}
}

func TestErrorsHaveANumberAndWords(t *testing.T) {
	p, _ := started(t)
	for _, c := range []struct {
		disk  wire.Disk
		words string
	}{
		{wire.Disk{Location: "64Q"}, "--file 64Q: not a size"},
		{wire.Disk{Location: "\xff"}, "not a size"},
		{wire.Disk{Location: strings.Repeat("9", 30)}, "more than"},
		{wire.Disk{Location: strings.Repeat("9", 1<<20)}, "not a size"},
		{wire.Disk{Location: "64M", Lanes: []string{wire.LaneRing}}, "only rpc"},
	} {
		s, err := p.OpenDisk(t.Context(), c.disk)
		if err == nil {
			_ = s.Close()
			t.Errorf("%.80v was opened", c.disk)
			continue
		}
		want := syscall.EINVAL
		if len(c.disk.Lanes) > 0 {
			want = syscall.ENOTSUP
		}
		if store.Errno(err) != want || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%.80v: %.200v (%d), want %q", c.disk, err, store.Errno(err), c.words)
		}
	}
	if s, err := p.OpenDisk(t.Context(), wire.Disk{Location: "64M", Options: map[string]string{"cache": "1"}}); err == nil {
		_ = s.Close()
		t.Error("an option that was not declared got as far as the plugin, which took it")
	}
	disk := ofSize(4096)
	disk.ReadOnly = true
	s := closing(t, p, disk)
	if err := s.WriteAt(t.Context(), []byte("x"), 0, 0); store.Errno(err) != syscall.EPERM || !strings.Contains(err.Error(), "for reading only") {
		t.Errorf("a write on a read-only disk: %v", err)
	}
}

func TestLogKeepsItsLevels(t *testing.T) {
	p, log := started(t)
	closing(t, p, ofSize(4096))
	eventually(t, "the plugin's line is in the log", func() bool {
		return strings.Contains(log.String(), "[DEBUG] backend-python: disk 1 of 4096 bytes is open")
	})
}

func TestSignalsDoNotEndIt(t *testing.T) {
	p, log := started(t)
	s := closing(t, p, ofSize(4096))
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP} {
		if err := syscall.Kill(p.PID(), signal); err != nil {
			t.Fatal(err)
		}
		// A signal is delivered before the process runs on, so the answers show it.
		for range 10 {
			if err := s.WriteAt(t.Context(), []byte("x"), 0, 0); err != nil {
				t.Fatalf("after %v: %v", signal, err)
			}
		}
	}
	if strings.Contains(log.String(), "WARN") || strings.Contains(log.String(), "ERROR") {
		t.Errorf("something was complained about:\n%s", log)
	}
}

func TestEndOfTheDescriptorChannelEndsIt(t *testing.T) {
	p, log := started(t)
	opened(t, p, ofSize(4096))
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if strings.Contains(log.String(), "does not end by itself") || strings.Contains(log.String(), "ERROR") {
		t.Errorf("it did not end in order:\n%s", log)
	}
}

// The host gives a plugin up that does not say for 15 seconds what it is, so it has to
// say it while as many calls as it takes at a time are under way.
func TestDescribeIsAnsweredWhileTheDiskIsBusy(t *testing.T) {
	p, client := dialled(t)
	s := closing(t, p, ofSize(64<<20))
	busy, stop := context.WithCancel(t.Context())
	begun := make(chan struct{}, 64)
	var readers sync.WaitGroup
	for range cap(begun) {
		readers.Go(func() {
			buf := make([]byte, 128<<10) // 64 of them are as much as the host asks for at a time
			for busy.Err() == nil {
				if err := s.ReadAt(busy, buf, 0); err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
					break
				}
				select {
				case begun <- struct{}{}:
				default:
				}
			}
		})
	}
	<-begun
	asking, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 20 {
		if _, err := client.Describe(asking); err != nil {
			t.Error(err)
			break
		}
	}
	stop()
	readers.Wait()
}

// dialled starts the plugin, with a second line to it, for calls that a host does not
// make.
func dialled(t *testing.T) (*host.Process, *wire.Client) {
	t.Helper()
	run, err := os.MkdirTemp("/tmp", "fnbd") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	t.Setenv("XDG_RUNTIME_DIR", run)
	p, _ := started(t)
	sockets, err := filepath.Glob(filepath.Join(run, "*", "*", "plugin"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("the plugin's sockets are %v (%v)", sockets, err)
	}
	conn, err := grpc.NewClient("unix:"+sockets[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return p, wire.NewClient(conn, nil)
}

// A host of before there were declared options passes on whatever it was given.
func TestUnknownOptionIsRefusedByThePluginItself(t *testing.T) {
	_, client := dialled(t)
	s, err := client.OpenDisk(t.Context(), wire.Disk{Location: "64M", Options: map[string]string{"cache": "1"}})
	if err == nil {
		_ = s.Close()
	}
	if store.Errno(err) != syscall.EINVAL || !strings.Contains(err.Error(), "unknown option cache") {
		t.Errorf("an option that it does not know: %v", err)
	}
}
