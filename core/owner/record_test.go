// SPDX-License-Identifier: GPL-3.0-or-later

package owner

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

var (
	when       = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	someID     = ID{0: 0xab, 15: 0xcd}
	incomplete = Incomplete{Prepared: someID, Written: when}
	departure  = Departure{ID: someID, To: []Address{{"10.0.0.2", 4777}, {"/run/x.sock", 0}},
		Unlink: true, Unconfirmed: true, Acknowledged: true, Written: when}
)

// The files of version 1, which every later release must read.
const (
	plainFile = `{
  "version": 1,
  "kind": "destination",
  "written": "2026-01-02T03:04:05Z"
}
`
	preparedFile = `{
  "version": 1,
  "kind": "destination",
  "prepared": "ab0000000000000000000000000000cd",
  "written": "2026-01-02T03:04:05Z"
}
`
	departureFile = `{
  "version": 1,
  "kind": "source",
  "id": "ab0000000000000000000000000000cd",
  "to": [
    {
      "addr": "10.0.0.2",
      "port": 4777
    },
    {
      "addr": "/run/x.sock"
    }
  ],
  "unlink": true,
  "unconfirmed": true,
  "acknowledged": true,
  "written": "2026-01-02T03:04:05Z"
}
`
)

func TestRecordsAreTheseBytes(t *testing.T) {
	for want, got := range map[string][]byte{
		plainFile:     Incomplete{Written: when}.encode(),
		preparedFile:  incomplete.encode(),
		departureFile: departure.encode(),
	} {
		if string(got) != want {
			t.Errorf("encoded as %s, want %s", got, want)
		}
	}
	plain, err := decodeIncomplete([]byte(plainFile))
	if err != nil || *plain != (Incomplete{Written: when}) {
		t.Errorf("plain: %v, %v", plain, err)
	}
	prepared, err := decodeIncomplete([]byte(preparedFile))
	if err != nil || *prepared != incomplete {
		t.Errorf("prepared: %v, %v", prepared, err)
	}
	received, err := decodeReceived([]byte(preparedFile)) // as the rename leaves it
	if err != nil || *received != (Received{someID, when}) {
		t.Errorf("received: %v, %v", received, err)
	}
	departed, err := decodeDeparture([]byte(departureFile))
	if err != nil || !reflect.DeepEqual(*departed, departure) {
		t.Errorf("departed: %v, %v", departed, err)
	}
}

// A source that was told to connect from one of its addresses has to do so after a
// restart too. Records without one, as they were always written, are as valid.
func TestAddressToConnectFromIsRecorded(t *testing.T) {
	bound := departure
	for want, from := range map[string]Address{
		`"addr": "192.0.2.7"`: {"192.0.2.7", 0}, `"port": 1023`: {"", 1023},
	} {
		bound.From = from
		text := bound.encode()
		if !strings.Contains(string(text), want) || !strings.Contains(string(text), `"from": {`) {
			t.Errorf("encoded as %s", text)
		}
		if got, err := decodeDeparture(text); err != nil || !reflect.DeepEqual(*got, bound) {
			t.Errorf("%v: %v, %v", from, got, err)
		}
	}
	for addr, want := range map[string]string{strings.Repeat("a", 256): "256 bytes", "\x1b[2J": "cannot be printed"} {
		bound.From = Address{Addr: addr}
		if _, err := decodeDeparture(bound.encode()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("from %q: %v", addr, err)
		}
	}
}

func TestDamagedRecordsAreRefused(t *testing.T) {
	replaced := func(from, to string) string { return strings.Replace(departureFile, from, to, 1) }
	for name, c := range map[string]struct{ text, want string }{
		"empty":             {"", "not a JSON object"},
		"zeroes":            {strings.Repeat("\x00", 100), "not a JSON object"},
		"half":              {departureFile[:len(departureFile)/2], "not JSON"},
		"no object":         {`[1]`, "not a JSON object"},
		"two":               {departureFile + departureFile, "more in it"},
		"rubbish behind":    {departureFile + "x", "more in it"},
		"no version":        {replaced(`"version": 1,`, ``), "no version"},
		"newer":             {replaced(`"version": 1`, `"version": 2, "more": true`), "of version 2"},
		"older":             {replaced(`"version": 1`, `"version": -1`), "of version -1"},
		"version as text":   {replaced(`"version": 1`, `"version": "1"`), "not what flexnbd writes"},
		"other kind":        {preparedFile, "under the name of"},
		"unknown field":     {replaced(`"unlink"`, `"unlinked"`), "unlinked"},
		"other case":        {replaced(`"unlink"`, `"Unlink"`), `"Unlink"`},
		"twice":             {replaced(`"unlink": true`, `"unlink": true, "unlink": false`), "twice"},
		"twice, below":      {replaced(`"port": 4777`, `"port": 4777, "port": 1`), "twice"},
		"unknown, below":    {replaced(`"port": 4777`, `"ports": 4777`), "ports"},
		"no id":             {replaced(`"id": "ab0000000000000000000000000000cd",`, ``), "no migration id"},
		"short id":          {replaced(`ab00`, `ab`), "32 hexadecimal digits"},
		"no hexadecimal id": {replaced(`ab00`, `xy00`), "32 hexadecimal digits"},
		"id of zeroes":      {replaced(`ab0000000000000000000000000000cd`, strings.Repeat("0", 32)), "zeroes"},
		"no address":        {replaced(`"to": [`, `"to": [], "x": [`), "unknown field"},
		"nobody":            {`{"version":1,"kind":"source","id":"ab0000000000000000000000000000cd","to":[],"written":"2026-01-02T03:04:05Z"}`, "0 addresses"},
		"too many": {`{"version":1,"kind":"source","id":"ab0000000000000000000000000000cd","to":[` +
			strings.Repeat(`{"addr":"a"},`, 16) + `{"addr":"a"}],"written":"2026-01-02T03:04:05Z"}`, "17 addresses"},
		"empty address": {replaced(`10.0.0.2`, ``), "0 bytes"},
		"long address":  {replaced(`10.0.0.2`, strings.Repeat("a", 256)), "256 bytes"},
		"control bytes": {replaced(`10.0.0.2`, `\u001b[2J`), "cannot be printed"},
		"port":          {replaced(`4777`, `65536`), "65536"},
		"no time": {replaced(`,
  "written": "2026-01-02T03:04:05Z"`, ``), "no time"},
		"odd time": {replaced(`2026-01-02T03:04:05Z`, `yesterday`), "yesterday"},
	} {
		if d, err := decodeDeparture([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v, want %q", name, d, err, c.want)
		}
	}
	if r, err := decodeReceived([]byte(plainFile)); err == nil {
		t.Errorf("a plain record was taken for what was received: %v", r)
	}
	if i, err := decodeIncomplete([]byte(departureFile)); err == nil {
		t.Errorf("a departure was taken for a destination's record: %v", i)
	}
}

// Whatever is accepted says the same when it is written again, and fits what is read.
func FuzzRecord(f *testing.F) {
	for _, seed := range []string{plainFile, preparedFile, departureFile, "", "{}", `{"version":2}`, `{"version":1,"version":1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if i, err := decodeIncomplete(data); err == nil {
			again, err := decodeIncomplete(i.encode())
			if err != nil || again.Prepared != i.Prepared || !again.Written.Equal(i.Written) {
				t.Errorf("%v became %v, %v", i, again, err)
			}
		}
		if r, err := decodeReceived(data); err == nil && r.ID.IsZero() {
			t.Error("received nothing")
		}
		if d, err := decodeDeparture(data); err == nil {
			text := d.encode()
			again, err := decodeDeparture(text)
			if err != nil || len(text) > maxRecord || !bytes.Equal(again.encode(), text) {
				t.Errorf("%v became %v, %v, in %d bytes", d, again, err, len(text))
			}
		}
	})
}

func TestIDs(t *testing.T) {
	if a, b := NewID(), NewID(); a == b || a.IsZero() {
		t.Errorf("NewID made %v and %v", a, b)
	}
	for _, text := range []string{someID.String(), strings.ToUpper(someID.String())} {
		if id, err := ParseID(text); err != nil || id != someID {
			t.Errorf("ParseID(%q) is %v, %v", text, id, err)
		}
	}
	for _, text := range []string{"", "ab", strings.Repeat("0", 32), strings.Repeat("g", 32), strings.Repeat("a", 33), strings.Repeat("a", 1<<20)} {
		if id, err := ParseID(text); err == nil || len(err.Error()) > 200 {
			t.Errorf("ParseID(%.40q) is %v, %.200v", text, id, err)
		}
	}
}

func FuzzKeyName(f *testing.F) {
	for _, seed := range []string{"", "a", ".", "..", "/dev/x", "~", "%2F", strings.Repeat("é", 200)} {
		f.Add(seed, seed+"x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		one, two := keyName(a), keyName(b)
		if (a == b) != (one == two) {
			t.Errorf("%q and %q are named %q and %q", a, b, one, two)
		}
		if one == "" || strings.ContainsAny(one, "/\x00") || one[0] == '.' || len(one)+maxSuffix > maxName {
			t.Errorf("%q is named %q", a, one)
		}
	})
}
