// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/test/journal"
)

// loadPatience is for what many requests, or their check, take on a busy machine.
const loadPatience = 2 * time.Minute

// runningLoad is a load that ends with its test.
type runningLoad struct {
	*journal.Load
	t *testing.T
}

// startLoad starts clients of a disk, wherever it is served. They leave the processors
// to other tests, too, unless o says how fast they are.
func startLoad(t *testing.T, disk *journal.Disk, o journal.Options) *runningLoad {
	t.Helper()
	if o.BytesPerSecond == 0 {
		o.BytesPerSecond = 16 << 20
	}
	load, err := journal.NewLoad(disk, o)
	if err != nil {
		t.Fatal(err)
	}
	load.Start()
	t.Cleanup(func() { _ = load.Stop(within(t, time.Millisecond)) })
	return &runningLoad{load, t}
}

// at are the servers, in the order in which clients look for their disk.
func at(servers ...*server) []journal.Server {
	var list []journal.Server
	for _, s := range servers {
		if s.in.network == "unix" {
			list = append(list, journal.Unix(s.addr))
		} else {
			list = append(list, journal.TCP(s.addr))
		}
	}
	return list
}

// more waits until n more requests have been answered.
func (l *runningLoad) more(n uint64) {
	l.t.Helper()
	if err := l.AwaitMore(within(l.t, loadPatience), n); err != nil {
		l.t.Fatal(err)
	}
}

// answeredBy waits until a server has answered n requests.
func (l *runningLoad) answeredBy(s *server, n uint64) {
	l.t.Helper()
	if err := l.AwaitAnsweredBy(within(l.t, loadPatience), s.addr, n); err != nil {
		l.t.Fatalf("%v\n%s", err, s.log.String())
	}
}

// stop ends the load, in which no request may have failed.
func (l *runningLoad) stop() {
	l.t.Helper()
	if err := l.Stop(within(l.t, loadPatience)); err != nil {
		l.t.Error(err)
	}
}

// unnoticed checks that no client of a server has lost its connection.
func (l *runningLoad) unnoticed() {
	l.t.Helper()
	if broken := l.Breaks(); len(broken) > 0 {
		l.t.Errorf("clients have noticed: %v", broken)
	}
}

// filledFile makes an image whose first bytes are data that the model knows.
func filledFile(t *testing.T, disk *journal.Disk, length int64) string {
	t.Helper()
	path := sparseFile(t, disk.Size())
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := disk.Fill(f, 0, length); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// checkDisk judges the whole history, of which an image is the end.
func checkDisk(t *testing.T, disk *journal.Disk, image io.ReaderAt) journal.Report {
	t.Helper()
	report, err := disk.Check(within(t, loadPatience), image)
	if err != nil {
		t.Error(err)
	}
	if report.Requests == 0 {
		t.Error("nothing was requested")
	}
	return report
}

// checkFile is checkDisk for a file or a device.
func checkFile(t *testing.T, disk *journal.Disk, path string) journal.Report {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	return checkDisk(t, disk, f)
}

// fastBytes is randomBytes for many of them.
func fastBytes(seed uint64, n int) []byte {
	b := make([]byte, n+8)
	numbers := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], numbers.Uint64())
	}
	return b[:n]
}

func itoa(n int) string { return strconv.Itoa(n) }
