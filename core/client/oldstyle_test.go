// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// oldstyleGreeting is written out by hand from the protocol's text.
const oldstyleGreeting = "NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53"

func TestOldstyleGreetingIsTheWholeHandshake(t *testing.T) {
	for name, pieces := range map[string][]string{
		"at once": {oldstyleGreeting + "\x00\x00\x00\x00\x00\x10\x00\x00" + "\x00\x00\x00\x0d" + string(make([]byte, 124))},
		"in pieces": {"NBDM", oldstyleGreeting[4:], "\x00\x00\x00\x00\x00\x10\x00", "\x00\x00\x00\x00\x0d" + string(make([]byte, 100)),
			string(make([]byte, 24))},
		"what is reserved is ignored": {oldstyleGreeting + "\x00\x00\x00\x00\x00\x10\x00\x00" + "\x80\x01\x00\x0d" + strings.Repeat("?", 124)},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Connect(t.Context(), play(t, func(s *script) {
				for _, p := range pieces {
					s.say([]byte(p))
				}
				s.want([]byte("\x25\x60\x95\x13\x00\x00\x00\x00")) // a READ is the first thing that is asked
				s.skip(20)
				s.say(append(nbd.AppendSimpleReply(nil, 0, 1), "abc"...))
				s.want(goodbye)
				s.drain()
			}), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, told := c.BlockSizes(); c.Size() != 1<<20 || c.Flags() != testFlags || told {
				t.Errorf("got %d bytes, %v, sizes told: %v", c.Size(), c.Flags(), told)
			}
			var got bytes.Buffer
			if err := c.ReadTo(t.Context(), &got, 1, 3); err != nil || got.String() != "abc" {
				t.Errorf("read %q, %v", &got, err)
			}
			if err := c.Disconnect(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOldstyleFlagsOfOthersCount(t *testing.T) {
	for _, test := range []struct {
		flags, want nbd.TransmissionFlags
	}{
		{testFlags | nbd.FlagReadOnly | nbd.FlagRotational | nbd.FlagSendTrim, testFlags | nbd.FlagReadOnly | nbd.FlagRotational | nbd.FlagSendTrim},
		{nbd.FlagReadOnly, 0}, // without HAS_FLAGS it means nothing
		{0, 0},
	} {
		c, err := Connect(t.Context(), play(t, func(s *script) {
			s.say(nbd.AppendOldstyleGreeting(nil, 4096, test.flags))
			s.drain()
		}), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if c.Flags() != test.want {
			t.Errorf("got %v, want %v", c.Flags(), test.want)
		}
		_ = c.Close()
	}
}

func TestOldstyleServerIsNotAskedForAName(t *testing.T) {
	conn := play(t, func(s *script) {
		s.tell(nbd.AppendOldstyleGreeting(nil, 4096, testFlags)) // fails when the client hangs up in the middle
		s.wantEnd()
	})
	_, err := Connect(t.Context(), conn, Options{Export: "disk"})
	if !errors.Is(err, nbd.ErrOldstyle) || !strings.Contains(err.Error(), "no names") || !strings.Contains(err.Error(), `"disk"`) {
		t.Errorf("got %v", err)
	}
}

func TestOldstyleSizeThatCannotBeIsRefused(t *testing.T) {
	_, err := Connect(t.Context(), canned{bytes.NewReader(nbd.AppendOldstyleGreeting(nil, 1<<63, testFlags))}, Options{})
	if err == nil || !strings.Contains(err.Error(), "9223372036854775808") {
		t.Errorf("got %v", err)
	}
}

func TestHungOldstyleGreetingEndsAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		_, err := Connect(t.Context(), play(t, func(s *script) {
			s.say([]byte(oldstyleGreeting + "\x00\x00"))
			s.drain()
		}), Options{})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 10*time.Second {
			t.Errorf("got %v after %v", err, time.Since(begin))
		}
	})
}
