// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"bytes"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// inFlight sends 64 writes at once, then a flush, then zeroes or more data, and
// reads back what the server has on another connection.
func inFlight(t *testing.T, p *Pipeline, zeroes bool) []byte {
	t.Helper()
	const block = 16 << 10
	l := newLedger(t)
	want := make([]byte, 1<<20)
	var calls []*Call
	for i := range 64 {
		calls = append(calls, l.call(nbd.CmdWrite, uint64(i*block), block))
		copy(want[i*block:], pattern(block))
	}
	p.Send(calls...)
	l.ended.Wait()
	if p.client.Flags().Has(nbd.FlagSendFlush) && !p.client.Oldstyle() { // see TestNbdkitsOldstyleIsUnderstood
		p.Send(l.call(nbd.CmdFlush, 0, 0))
	}
	if zeroes {
		p.Send(l.call(nbd.CmdWriteZeroes, 5000, 300000))
		clear(want[5000:305000])
	}
	if err := p.Disconnect(t.Context()); err != nil {
		t.Error(err)
	}
	for c := range l.ends {
		if err := l.of(c); err != nil {
			t.Errorf("%v at %d: %v", c.Request.Command, c.Request.Offset, err)
		}
	}
	return want
}

func TestPipelineToNbdkit(t *testing.T) {
	dial := peer(t, "nbdkit", "-f", "memory", "1M")
	for _, threads := range []string{"first", "again"} {
		c, err := Connect(t.Context(), dial(), Options{Migration: &testHello})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := c.Migration(); ok {
			t.Error("nbdkit has taken a migration")
		}
		want := inFlight(t, c.Pipeline(PipelineOptions{}), true)
		reader, err := Connect(t.Context(), dial(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := reader.ReadTo(t.Context(), &got, 0, 1<<20); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: what was read is not what was written; %v", threads, err)
		}
		if err := reader.Disconnect(); err != nil {
			t.Error(err)
		}
	}
}

func TestPipelineToOldstyleNbdkit(t *testing.T) {
	dial := peer(t, "nbdkit", "-f", "-o", "memory", "1M")
	c, err := Connect(t.Context(), dial(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !c.Oldstyle() {
		t.Error("nbdkit -o is not taken for oldstyle")
	}
	want := inFlight(t, c.Pipeline(PipelineOptions{}), false)
	reader, err := Connect(t.Context(), dial(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var got bytes.Buffer
	if err := reader.ReadTo(t.Context(), &got, 0, 1<<20); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("what was read is not what was written; %v", err)
	}
}
