// SPDX-License-Identifier: GPL-3.0-or-later

package pythonplugin

import (
	"bytes"
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// patience is how long to wait for what should come soon, on a busy machine.
const patience = 30 * time.Second

// logged is what a process has said. Its methods may be called from many goroutines.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// started starts the plugin for as long as the test takes, as a server does. The log
// has every level.
func started(t *testing.T) (*host.Process, *logged) {
	t.Helper()
	spec, err := host.ParseSpec(wire.KindBackend, programs.python)
	if err != nil {
		t.Fatal(err)
	}
	program, err := (&host.Finder{}).Find(spec)
	if err != nil {
		t.Fatal(err)
	}
	log := &logged{}
	h, err := host.New(hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Trace, DisableTime: true}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	p, err := h.Start(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the log:\n%s", log)
		}
	})
	return p, log
}

// opened opens a disk, of which the test does the closing.
func opened(t testing.TB, p *host.Process, disk wire.Disk) store.Store {
	t.Helper()
	s, err := p.OpenDisk(t.Context(), disk)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// closing is opened for a test that does not close the disk.
func closing(t testing.TB, p *host.Process, disk wire.Disk) store.Store {
	t.Helper()
	s := opened(t, p, disk)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// ofSize is a disk of so many bytes.
func ofSize(size int64) wire.Disk { return wire.Disk{Location: strconv.FormatInt(size, 10)} }

// eventually waits until state holds.
func eventually(t testing.TB, what string, state func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; !state(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for this: %s", patience, what)
		}
		time.Sleep(pause)
	}
}
