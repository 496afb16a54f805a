// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const oldstyle = "--handshake=oldstyle"

func TestNbdinfoSeesOldstyle(t *testing.T) {
	t.Parallel()
	needs(t, "nbdinfo")
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, 1<<20+1, oldstyle)
		var info struct {
			Protocol string
			Exports  []struct {
				Size     int64 `json:"export-size"`
				Flush    bool  `json:"can_flush"`
				FUA      bool  `json:"can_fua"`
				ReadOnly bool  `json:"is_read_only"`
			}
		}
		text := must(t, "nbdinfo", "--json", s.uri())
		if err := json.Unmarshal([]byte(text), &info); err != nil {
			t.Fatal(err)
		}
		if info.Protocol != "oldstyle" || len(info.Exports) != 1 {
			t.Fatalf("nbdinfo --json: %s", text)
		}
		if e := info.Exports[0]; e.Size != b.size(1<<20+1) || !e.Flush || !e.FUA || e.ReadOnly {
			t.Errorf("nbdinfo --json: %s", text)
		}
		// Exactly these abilities: peers of flexnbd 0.x know no others.
		for _, ability := range []string{"can_trim", "can_zero", "can_df", "can_cache", "can_multi_conn", "can_fast_zero"} {
			if !strings.Contains(text, `"`+ability+`": false`) {
				t.Errorf("nbdinfo does not say that %s is false:\n%s", ability, text)
			}
		}
	})
}

func TestFioOnOldstyle(t *testing.T) {
	t.Parallel()
	needsFio(t)
	onEachBackend(t, func(t *testing.T, b setting) {
		const size = 8 << 20
		s := b.serve(t, size, oldstyle)
		for _, job := range fio(t, s, "--rw=randwrite", "--bsrange=4k-64k", "--iodepth=16", "--size=8M", "--verify=crc32c",
			"--do_verify=1", "--verify_fatal=1", "--norandommap=0", "--fsync=100") {
			if job.Error != 0 || job.Write.Bytes != size || job.Read.Bytes != size {
				t.Errorf("fio wrote %d bytes and verified %d, of %d; error %d", job.Write.Bytes, job.Read.Bytes, size, job.Error)
			}
		}
	})
}

func TestReadAndWriteSpeakOldstyle(t *testing.T) {
	t.Parallel()
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, 1<<20, oldstyle)
		want := randomBytes(1, 100_000)
		s.write(t, want, 4321)
		if got := s.read(t, 4321, len(want)); !bytes.Equal(got, want) {
			t.Error("read is not what was written")
		}
		if got := s.read(t, 0, 4321); len(bytes.Trim(got, "\x00")) > 0 {
			t.Error("before what was written there are no zeroes")
		}
		r := run(t, nil, programs.flexnbd, s.command("read", 1<<20, 1)...)
		if r.status != 1 || !strings.Contains(r.stderr, "READ of 1 bytes at offset 1048576") {
			t.Errorf("read past the end: exit status %d, %s", r.status, r.stderr)
		}
	})
}

// An oldstyle server by others: ours is a client of it.
func TestReadAndWriteOnNbdkitOldstyle(t *testing.T) {
	t.Parallel()
	needs(t, "nbdkit")
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, style := range []string{"--oldstyle", "--newstyle"} {
		t.Run(style, func(t *testing.T) {
			s := &server{t: t, in: surroundings{network: "unix"}}
			s.addr = strings.TrimPrefix(nbdkit(t, style, "file", file), "nbd+unix:///?socket=")
			want := randomBytes(uint64(len(style)), 70_001)
			s.write(t, want, 12_345)
			if got := s.read(t, 12_345, len(want)); !bytes.Equal(got, want) {
				t.Error("read is not what was written")
			}
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got[12_345:12_345+len(want)], want) {
				t.Errorf("nbdkit's file does not have what was written (%v)", err)
			}
		})
	}
}

// A client that speaks the other kind is told so, and the server serves on.
func TestHandshakesDoNotMix(t *testing.T) {
	needs(t, "nbd-client")
	s := serve(t, oldstyle, "--file", sparseFile(t, 4096))
	host, port, _ := strings.Cut(s.addr, ":")
	if r := run(t, nil, "nbd-client", "-l", host, port); r.status == 0 {
		t.Errorf("nbd-client -l lists the exports of an oldstyle server: %s", r.stdout)
	}
	s.read(t, 0, 4096)
}
