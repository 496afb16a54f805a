// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

func TestImpossibleDiskIsRefusedAndClosed(t *testing.T) {
	s := newTestStore(0)
	s.info.Size = -1
	if _, err := Open(t.Context(), s, Options{}); err == nil || !strings.Contains(err.Error(), "size -1") {
		t.Fatalf("got %v", err)
	}
	if !s.closed {
		t.Fatal("the store was left open")
	}
}

func TestStoreOfWholeBlocksBecomesByteGranular(t *testing.T) {
	s := newTestStore(64 << 10)
	s.info.MinBlock, s.info.Unaligned = 4096, store.RefusesUnaligned
	e := serve(t, s)
	if e.Info().Unaligned != store.HandlesUnaligned || e.Size() != 64<<10 {
		t.Fatalf("info %+v", e.Info())
	}
	c := e.connect(t)
	c.must(write(5000, []byte{1, 2, 3}, 0))
	for _, x := range s.took() {
		if x.off%4096 != 0 || x.length%4096 != 0 {
			t.Errorf("the store got %v", x)
		}
	}
	if got := c.content(4999, 5); !bytes.Equal(got, []byte{0, 1, 2, 3, 0}) {
		t.Fatalf("read %v", got)
	}
}

func TestCloseStopsTheBuildAndClosesTheStore(t *testing.T) {
	s := newTestStore(1 << 20)
	s.info.Size = 1 << 49
	s.extents = func(off, length int64) ([]store.Extent, error) {
		return store.AllData(off, min(length, 1<<20)), nil // takes for ever
	}
	s.after = func(call) { s.mu.Lock(); s.calls = nil; s.mu.Unlock() }
	e, err := Open(t.Context(), s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(t.Context()); err != nil || !s.closed {
		t.Fatalf("error %v, closed %v", err, s.closed)
	}
}

func TestCloseGivesUpOnAHungStoreAndCanBeRepeated(t *testing.T) {
	s, look := newTestStore(100), newStop(t)
	s.before = look.at("extents")
	e, err := Open(t.Context(), s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	<-look.reached
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Close(ctx); !errors.Is(err, context.Canceled) || s.closed {
		t.Fatalf("error %v, closed %v", err, s.closed)
	}
	close(look.release)
	if err := e.Close(t.Context()); err != nil || !s.closed {
		t.Fatalf("error %v, closed %v", err, s.closed)
	}
}

func TestFailedBuildIsReportedOnce(t *testing.T) {
	s := newTestStore(5 * chunkSize / 1024)
	s.fail("extents", errTest)
	var lines bytes.Buffer
	e, err := Open(t.Context(), s, Options{Logger: hclog.New(&hclog.LoggerOptions{Output: &lines, Level: hclog.Warn})})
	if err != nil {
		t.Fatal(err)
	}
	e.background.Wait()
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if strings.Count(lines.String(), "[WARN]") != 1 || !strings.Contains(lines.String(), errTest.Error()) {
		t.Fatalf("the log says %q", lines.String())
	}
}

func TestReferenceStoreIsServed(t *testing.T) {
	e, err := Open(t.Context(), memstore.New(8<<20), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(context.Background())
	e.background.Wait()
	if !e.zeros.knownZero(0, 8<<20) {
		t.Error("an empty disk is not known to be zero")
	}
	c := e.connect(t)
	defer c.Close()
	c.must(write(12345, data, store.FUA))
	if got := c.content(12345, blockSize); !bytes.Equal(got, data) {
		t.Error("wrong bytes")
	}
	c.must(flush())
}
