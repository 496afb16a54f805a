// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
	pluginv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/plugin/v1"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

const lentSize = 1 << 20

var (
	fileOrRPC = []string{wire.LaneFile, wire.LaneRPC}
	fileOnly  = []string{wire.LaneFile}
)

// lender is a scripted store that lends; its facts say what facts makes of them.
type lender struct {
	*scripted
	loan  *store.Loan
	facts func(*store.Info) // may be nil
	reads atomic.Int64
}

func newLender(f *os.File) *lender {
	l := &lender{scripted: newScripted(lentSize)}
	if f != nil {
		l.loan = store.NewLoan(f)
	}
	return l
}

func (l *lender) Lend() *store.Loan { return l.loan }

func (l *lender) Info() store.Info {
	info := l.Store.Info()
	info.Survives = store.SurvivesAcknowledged
	if l.facts != nil {
		l.facts(&info)
	}
	return info
}

func (l *lender) ReadAt(ctx context.Context, p []byte, off int64) error {
	l.reads.Add(1)
	return l.scripted.ReadAt(ctx, p, off)
}

// openFile opens a file of size bytes with flag.
func openFile(t *testing.T, size int64, flag int) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return reopen(t, path, flag)
}

func reopen(t *testing.T, path string, flag int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// openFD is reopen for flags that package os adds to, or would poll for.
func openFD(t *testing.T, path string, flag int) *os.File {
	t.Helper()
	fd, err := unix.Open(path, flag|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// borrow opens s over the wire with the lanes.
func borrow(t *testing.T, s store.Store, lanes []string) (*wiretest.Line, store.Store, *wire.Lent, error) {
	t.Helper()
	line := wiretest.New(t, wire.Served{Open: opener(s)})
	remote, err := line.Client.OpenDisk(t.Context(), wire.Disk{Lanes: lanes})
	if err != nil {
		t.Fatal(err)
	}
	lent, refused := remote.(wire.LentTaker).TakeLent()
	if lent != nil {
		t.Cleanup(lent.End)
	}
	return line, remote, lent, refused
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

// isReturned says whether the store has got its loan back.
func isReturned(loan *store.Loan) bool {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	return loan.Revoke(over) == nil
}

func TestLentDescriptorIsTheStores(t *testing.T) {
	for name, file := range map[string]func(t *testing.T) *os.File{
		"file": func(t *testing.T) *os.File { return openFile(t, lentSize, os.O_RDWR) },
		"device": func(t *testing.T) *os.File {
			return reopen(t, looptest.New(t, looptest.Options{Size: lentSize}).Path, os.O_RDWR|unix.O_EXCL)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := file(t)
			disk, err := fdstore.New(f, fdstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			for _, lanes := range [][]string{fileOrRPC, fileOnly} {
				_, remote, lent, refused := borrow(t, notClosed{disk}, lanes)
				if lent == nil || refused != nil {
					t.Fatalf("no loan with lanes %v: %v", lanes, refused)
				}
				if again, refused := remote.(wire.LentTaker).TakeLent(); again != nil || refused != nil {
					t.Errorf("the loan can be taken twice: %v, %v", again, refused)
				}
				if !lent.Enter() {
					t.Fatal("a new loan can't be used")
				}
				p, got := []byte("written here, read there"), make([]byte, 24)
				if _, err := unix.Pwrite(lent.FD(), p, 4095); err != nil {
					t.Fatal(err)
				}
				if err := remote.ReadAt(t.Context(), got, 4095); err != nil || !bytes.Equal(got, p) {
					t.Errorf("read by call: %q, %v", got, err)
				}
				if err := remote.PunchHole(t.Context(), 4095, 7, store.FUA); err != nil {
					t.Fatal(err)
				}
				if _, err := unix.Pread(lent.FD(), got, 4095); err != nil || !bytes.Equal(got, append(make([]byte, 7), p[7:]...)) {
					t.Errorf("read on the descriptor: %q, %v", got, err)
				}
				lent.Leave()
				lent.End()
				if err := remote.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// notClosed stays open, and lends, when it is closed.
type notClosed struct{ *fdstore.Store }

func (n notClosed) Close() error { return nil }

func TestReadOnlyDescriptorDoesForAReadOnlyDisk(t *testing.T) {
	s := newLender(openFile(t, lentSize, os.O_RDONLY))
	line := wiretest.New(t, wire.Served{Open: opener(s)})
	for _, says := range []bool{false, true} { // whether the store says it, too
		s.facts = func(i *store.Info) { i.ReadOnly = says }
		remote, err := line.Client.OpenDisk(t.Context(), wire.Disk{ReadOnly: !says, Lanes: fileOnly})
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestLaneIsTheFirstThatBothCan(t *testing.T) {
	for _, c := range []struct {
		lanes []string
		lends bool
		file  bool
	}{
		{nil, true, false},
		{[]string{wire.LaneRPC}, true, false},
		{[]string{wire.LaneRPC, wire.LaneFile}, true, false},
		{fileOrRPC, true, true},
		{fileOrRPC, false, false},
	} {
		var f *os.File
		if c.lends {
			f = openFile(t, lentSize, os.O_RDWR)
		}
		s := newLender(f)
		_, remote, lent, refused := borrow(t, s, c.lanes)
		if (lent != nil) != c.file || refused != nil {
			t.Errorf("lanes %v, lends %v: loan %v, refused: %v", c.lanes, c.lends, lent, refused)
		}
		if c.lends && isReturned(s.loan) == c.file {
			t.Errorf("lanes %v: the loan was returned: %v", c.lanes, !c.file)
		}
		if err := remote.ReadAt(t.Context(), make([]byte, 10), 0); err != nil || s.reads.Load() != 1 {
			t.Errorf("lanes %v: a read by call: %v, %d reached the store", c.lanes, err, s.reads.Load())
		}
	}
}

func TestBackendThatDoesNotLendSaysSo(t *testing.T) {
	unaligned := newLender(openFile(t, lentSize, os.O_RDWR))
	unaligned.facts = func(i *store.Info) { i.Unaligned, i.MinBlock = store.RefusesUnaligned, 512 }
	hidden := newLender(openFile(t, lentSize, os.O_RDWR))
	for want, s := range map[string]store.Store{
		"does not lend its descriptor": memstore.New(lentSize),
		"it does not lend":             newLender(nil),
		"no file lane":                 struct{ store.Store }{hidden}, // a wrapper
		"no multiple of 512 bytes":     unaligned,
		"its loan is of no file":       &lender{scripted: newScripted(lentSize), loan: store.NewLoan(nil)},
	} {
		line := wiretest.New(t, wire.Served{Open: opener(s)})
		_, err := line.Client.OpenDisk(t.Context(), wire.Disk{Lanes: fileOnly})
		if err == nil || !strings.Contains(err.Error(), "this backend has no file lane") || !strings.Contains(err.Error(), want) {
			t.Errorf("OpenDisk: %v, want an error about %s", err, want)
		}
		if _, err := line.Client.OpenDisk(t.Context(), wire.Disk{Lanes: fileOrRPC}); err != nil {
			t.Errorf("%s: with another lane: %v", want, err)
		}
	}
	if !unaligned.closed.Load() || !isReturned(unaligned.loan) {
		t.Error("the store that was not wanted was not closed, or not given its loan back")
	}
}

func TestOldPluginAnswersWithTheRPCLane(t *testing.T) {
	u := &unruly{open: &backendv1.OpenResponse{Disk: 7, Lane: "rpc", Info: &backendv1.Info{Size: 4096}}}
	line := u.serve(t)
	remote, err := line.Client.OpenDisk(t.Context(), wire.Disk{Lanes: fileOrRPC})
	if err != nil {
		t.Fatal(err)
	}
	if lent, refused := remote.(wire.LentTaker).TakeLent(); lent != nil || refused != nil {
		t.Errorf("loan %v, refused: %v", lent, refused)
	}
	_, err = line.Client.OpenDisk(t.Context(), wire.Disk{Lanes: fileOnly})
	if !errors.Is(err, store.ErrNotSupported) || !strings.Contains(err.Error(), `can do lane "rpc" only, and was to do file`) {
		t.Errorf("with lane file only: %v", err)
	}
	if u.closed.Load() != 7 {
		t.Error("the disk that was not wanted was not closed")
	}
}

// badLoans are descriptors that must not be used, and what is said about them.
func badLoans(t *testing.T) map[string]*os.File {
	t.Helper()
	pipe, pipeWriter, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket, peer := os.NewFile(uintptr(sockets[0]), "socket"), os.NewFile(uintptr(sockets[1]), "socket")
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	eventFile := os.NewFile(uintptr(event), "event")
	t.Cleanup(func() {
		for _, f := range []*os.File{pipe, pipeWriter, socket, peer, eventFile} {
			_ = f.Close()
		}
	})
	path := openFile(t, lentSize, os.O_RDWR).Name()
	link := path + "-link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	return map[string]*os.File{
		"a pipe":                        pipe,
		"is a pipe and no":              pipeWriter,
		"a socket":                      socket,
		"something else":                eventFile,
		"a directory":                   openFD(t, t.TempDir(), unix.O_RDONLY|unix.O_DIRECTORY),
		"a symbolic link":               openFD(t, link, unix.O_PATH|unix.O_NOFOLLOW),
		"a character device":            openFD(t, os.DevNull, unix.O_RDWR),
		"O_PATH":                        openFD(t, path, unix.O_PATH),
		"for writing only":              openFD(t, path, unix.O_WRONLY),
		"for reading only":              openFD(t, path, unix.O_RDONLY),
		"for neither":                   openFD(t, path, 3),
		"O_APPEND":                      openFD(t, path, unix.O_RDWR|unix.O_APPEND),
		"O_DIRECT":                      openFD(t, path, unix.O_RDWR|unix.O_DIRECT),
		"it has 1048575 bytes and":      openFile(t, lentSize-1, os.O_RDWR),
		"it has 1048577 bytes and":      openFile(t, lentSize+1, os.O_RDWR),
		"and the disk 1048576":          openFile(t, 0, os.O_RDWR),
		"and no regular file or block ": openFD(t, "/dev/zero", unix.O_RDONLY),
	}
}

func TestDescriptorThatDoesNotFitIsRefused(t *testing.T) {
	for want, f := range badLoans(t) {
		s := newLender(f)
		checkRefused(t, s, want)
	}
}

func TestDeviceThatDoesNotFitIsRefused(t *testing.T) {
	device := looptest.New(t, looptest.Options{Size: lentSize / 2})
	for want, flag := range map[string]int{
		"it has 524288 bytes and": unix.O_RDWR,
		"disk is to be written":   unix.O_RDONLY,
		"O_DIRECT":                unix.O_RDWR | unix.O_DIRECT,
	} {
		checkRefused(t, newLender(openFD(t, device.Path, flag)), want)
	}
}

func TestDiskWithOtherFactsIsNotBorrowed(t *testing.T) {
	for want, facts := range map[string]func(*store.Info){
		"not replayable":  func(i *store.Info) { i.Replayable = false },
		"do not survive":  func(i *store.Info) { i.Survives = store.SurvivesFlushed },
		"not survive the": func(i *store.Info) { i.Survives = store.SurvivesNothing },
		"it has 1048576 bytes and the disk 1048575": func(i *store.Info) { i.Size-- },
	} {
		s := newLender(openFile(t, lentSize, os.O_RDWR))
		s.facts = facts
		checkRefused(t, s, want)
	}
}

// checkRefused opens s with and without another lane to go to.
func checkRefused(t *testing.T, s *lender, want string) {
	t.Helper()
	line := wiretest.New(t, wire.Served{Open: opener(s)})
	if _, err := line.Client.OpenDisk(t.Context(), wire.Disk{}); err != nil { // now there is a connection
		t.Fatal(err)
	}
	s.loan = store.NewLoan(s.loan.File()) // the first one has been returned
	before := descriptors(t)
	remote, err := line.Client.OpenDisk(t.Context(), wire.Disk{Lanes: fileOrRPC})
	if err != nil {
		t.Errorf("%s: %v", want, err)
		return
	}
	lent, refused := remote.(wire.LentTaker).TakeLent()
	if lent != nil || refused == nil || !strings.Contains(refused.Error(), want) || !strings.HasPrefix(refused.Error(), "the plugin lent a descriptor, but ") {
		t.Errorf("loan %v, refused: %v, want an error about %s", lent, refused, want)
	}
	if !isReturned(s.loan) {
		t.Errorf("%s: the plugin does not know that its loan was refused", want)
	}
	got := make([]byte, 3)
	if err := remote.WriteAt(t.Context(), []byte("rpc"), 9, 0); err != nil {
		t.Errorf("%s: a write by call: %v", want, err)
	}
	if err := remote.ReadAt(t.Context(), got, 9); err != nil || string(got) != "rpc" {
		t.Errorf("%s: a read by call: %q, %v", want, got, err)
	}
	if now := descriptors(t); now != before {
		t.Errorf("%s: %d descriptors are open, want %d", want, now, before)
	}
	_, err = line.Client.OpenDisk(t.Context(), wire.Disk{Lanes: fileOnly})
	if err == nil || !strings.Contains(err.Error(), want) || !s.closed.Load() {
		t.Errorf("with no other lane: %v, want an error about %s; closed: %v", err, want, s.closed.Load())
	}
	if now := descriptors(t); now != before {
		t.Errorf("%s: %d descriptors are open after a refusal, want %d", want, now, before)
	}
}

func TestLoanThatIsNotTakenIsClosedWithTheDisk(t *testing.T) {
	s := newLender(openFile(t, lentSize, os.O_RDWR))
	line := wiretest.New(t, wire.Served{Open: opener(s)})
	before := 0
	for range 3 { // with the first, the connection comes
		remote, err := line.Client.OpenDisk(t.Context(), wire.Disk{Lanes: fileOnly})
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Close(); err != nil {
			t.Fatal(err)
		}
		now := descriptors(t)
		if before != 0 && now != before {
			t.Errorf("%d descriptors are open, want %d", now, before)
		}
		before = now
	}
	if !isReturned(s.loan) {
		t.Error("the loan was not returned")
	}
}

// borrower does with a loan what a host does.
type borrower struct {
	lent   *wire.Lent
	ending sync.WaitGroup
}

// watch gives the loan back when the plugin wants it.
func (b *borrower) watch(t *testing.T) {
	b.ending.Go(func() {
		if err := b.lent.AwaitRevocation(t.Context()); err != nil {
			t.Errorf("AwaitRevocation: %v", err)
			return
		}
		if err := b.lent.GiveBack(t.Context()); err != nil {
			t.Errorf("GiveBack: %v", err)
		}
	})
}

func TestRevokeReturnsWhenTheLastBorrowerHasLeft(t *testing.T) {
	s := newLender(openFile(t, lentSize, os.O_RDWR))
	_, remote, lent, _ := borrow(t, s, fileOrRPC)
	b := borrower{lent: lent}
	b.watch(t)

	var taken atomic.Bool
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			p := make([]byte, 512)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if !lent.Enter() {
					if err := remote.ReadAt(t.Context(), p, 0); err != nil {
						t.Errorf("a read by call: %v", err)
						return
					}
					continue
				}
				if _, err := unix.Pread(lent.FD(), p, 0); err != nil {
					t.Errorf("a read on the descriptor: %v", err)
				}
				if taken.Load() {
					t.Error("the descriptor is in use though it was taken back")
				}
				lent.Leave()
			}
		})
	}
	if !lent.Enter() { // one that takes its time
		t.Fatal("a new loan can't be used")
	}
	revoked := async(func() error { defer taken.Store(true); return s.loan.Revoke(t.Context()) })
	await(t, "nobody may enter", func() bool {
		if lent.Enter() {
			lent.Leave()
			return false
		}
		return true
	})
	await(t, "reads come to the store", func() bool { return s.reads.Load() > 4 })
	select {
	case err := <-revoked:
		t.Errorf("Revoke returned %v with somebody inside", err)
	default:
	}
	if _, err := unix.Pread(lent.FD(), make([]byte, 1), 0); err != nil {
		t.Errorf("the descriptor does not work for who is inside: %v", err)
	}
	lent.Leave()
	if err := within(t, "Revoke", revoked); err != nil {
		t.Errorf("Revoke: %v", err)
	}
	close(stop)
	readers.Wait()
	b.ending.Wait()
	if err := remote.Close(); err != nil {
		t.Error(err)
	}
}

func TestRevocationBeforeAnybodyAwaitsItIsNotMissed(t *testing.T) {
	s := newLender(openFile(t, lentSize, os.O_RDWR))
	_, _, lent, _ := borrow(t, s, fileOrRPC)
	revoked := async(func() error { return s.loan.Revoke(t.Context()) })
	within(t, "revocation", s.loan.Revoked())
	b := borrower{lent: lent}
	b.watch(t)
	if err := within(t, "Revoke", revoked); err != nil {
		t.Errorf("Revoke: %v", err)
	}
	b.ending.Wait()
	if err := lent.GiveBack(t.Context()); err != nil { // again
		t.Errorf("GiveBack: %v", err)
	}
}

func TestRevokeOfALoanThatWasNotTakenReturns(t *testing.T) {
	s := newLender(openFile(t, lentSize, os.O_RDWR))
	if _, _, lent, _ := borrow(t, s, nil); lent != nil {
		t.Fatal("a loan was taken that was not asked for")
	}
	if err := s.loan.Revoke(t.Context()); err != nil {
		t.Errorf("Revoke: %v", err)
	}
}

func TestLoanOutlivesThePlugin(t *testing.T) {
	s := newLender(openFile(t, lentSize, os.O_RDWR))
	line, _, lent, _ := borrow(t, s, fileOrRPC)
	awaiting := async(func() error { return lent.AwaitRevocation(t.Context()) })
	line.Cut()
	if err := within(t, "AwaitRevocation", awaiting); !errors.Is(err, wire.ErrPluginGone) {
		t.Errorf("AwaitRevocation: %v", err)
	}
	if !lent.Enter() {
		t.Fatal("the loan has ended with the plugin")
	}
	if _, err := unix.Pread(lent.FD(), make([]byte, 1), 0); err != nil {
		t.Error(err)
	}
	lent.Leave()
	if err := lent.GiveBack(t.Context()); !errors.Is(err, wire.ErrPluginGone) {
		t.Errorf("GiveBack: %v", err)
	}
	within(t, "end of the loan", lent.Ended())
}

// A host may close its end and go on with the loan, until there is a new process.
func TestLostHostDoesNotReturnALoan(t *testing.T) {
	s := newLender(openFile(t, lentSize, os.O_RDWR))
	line, _, lent, _ := borrow(t, s, fileOrRPC)
	awaiting := async(func() error { return lent.AwaitRevocation(t.Context()) })
	if err := line.Conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := within(t, "AwaitRevocation", awaiting); !errors.Is(err, wire.ErrPluginGone) {
		t.Errorf("AwaitRevocation: %v", err)
	}
	line.Cut() // every call has ended after this
	if isReturned(s.loan) {
		t.Error("the store takes the loan for returned, and it is in use")
	}
}

func TestEndedContextEndsTheWaitForRevocation(t *testing.T) {
	s := newLender(openFile(t, lentSize, os.O_RDWR))
	_, _, lent, _ := borrow(t, s, fileOrRPC)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := lent.AwaitRevocation(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("AwaitRevocation: %v", err)
	}
}

func TestCloseEndsTheWaitForRevocation(t *testing.T) {
	s := newLender(openFile(t, lentSize, os.O_RDWR))
	client, disk := openLent(t, s)
	awaiting := async(func() error {
		_, err := client.AwaitRevocation(t.Context(), &backendv1.AwaitRevocationRequest{Disk: disk})
		return err
	})
	if _, err := client.Close(t.Context(), &backendv1.CloseRequest{Disk: disk}); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := within(t, "AwaitRevocation", awaiting); status.Code(err) != codes.NotFound {
		t.Errorf("AwaitRevocation: %v", err)
	}
	if !isReturned(s.loan) {
		t.Error("Close did not return the loan")
	}
}

// openLent opens s on lane file and returns the plugin's services as they are.
func openLent(t *testing.T, s store.Store) (backendv1.BackendClient, uint64) {
	t.Helper()
	client := backendv1.NewBackendClient(wiretest.New(t, wire.Served{Open: opener(s)}).Conn)
	r, err := client.Open(t.Context(), &backendv1.OpenRequest{Lanes: fileOrRPC})
	if err != nil || r.GetError() != nil || r.GetLane() != wire.LaneFile || r.GetLoan() == 0 {
		t.Fatal(err, r)
	}
	return client, r.GetDisk()
}

func TestStoreMayRevokeWhileItCloses(t *testing.T) {
	s := &revoker{lender: newLender(openFile(t, lentSize, os.O_RDWR))}
	_, remote, lent, _ := borrow(t, s, fileOrRPC)
	lent.End()
	if err := within(t, "Close", async(remote.Close)); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := lent.AwaitRevocation(t.Context()); err == nil || !strings.Contains(err.Error(), "not open") {
		t.Errorf("AwaitRevocation of a closed disk: %v", err)
	}
}

// Close waits for the write, the write for somebody who revokes.
func TestCloseReturnsTheLoanBeforeItWaitsForCalls(t *testing.T) {
	s := newLender(openFile(t, lentSize, os.O_RDWR))
	revoked := async(func() error { return s.loan.Revoke(t.Context()) })
	entered := make(chan struct{})
	s.call = func(context.Context) {
		close(entered)
		if err := <-revoked; err != nil {
			t.Error(err)
		}
	}
	client, disk := openLent(t, s)
	writing := async(func() error {
		_, err := client.Write(t.Context(), &backendv1.WriteRequest{Disk: disk, Data: []byte("x")})
		return err
	})
	within(t, "write in the store", entered)
	closing := async(func() error {
		_, err := client.Close(t.Context(), &backendv1.CloseRequest{Disk: disk})
		return err
	})
	if err := errors.Join(within(t, "Close", closing), within(t, "write", writing)); err != nil {
		t.Error(err)
	}
}

func TestLoanOfADiskTooManyIsReturned(t *testing.T) {
	var next store.Store = memstore.New(lentSize)
	client := backendv1.NewBackendClient(wiretest.New(t, wire.Served{Open: func(context.Context, wire.Disk) (store.Store, error) {
		return next, nil
	}}).Conn)
	for range 256 {
		if _, err := client.Open(t.Context(), &backendv1.OpenRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	s := newLender(openFile(t, lentSize, os.O_RDWR))
	next = s
	if _, err := client.Open(t.Context(), &backendv1.OpenRequest{Lanes: fileOrRPC}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one disk more: %v", err)
	}
	if !isReturned(s.loan) || !s.closed.Load() {
		t.Error("the store was not given its loan back, or not closed")
	}
}

// revoker takes its loan back before it closes.
type revoker struct{ *lender }

func (r *revoker) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return errors.Join(r.loan.Revoke(ctx), r.lender.Close())
}

func TestOnlyWhatWasLentCanBeReturned(t *testing.T) {
	client, disk := open(t, newLender(openFile(t, lentSize, os.O_RDWR))) // on lane rpc
	for id, want := range map[uint64]codes.Code{disk: codes.FailedPrecondition, disk + 1: codes.NotFound} {
		_, err := client.ReturnLoan(t.Context(), &backendv1.ReturnLoanRequest{Disk: id})
		_, err2 := client.AwaitRevocation(t.Context(), &backendv1.AwaitRevocationRequest{Disk: id})
		if status.Code(err) != want || status.Code(err2) != want {
			t.Errorf("disk %d: %v and %v, want %v", id, err, err2, want)
		}
	}
}

// loose is a plugin that sends descriptors it does not announce well.
type loose struct {
	unruly
	channel *wire.DescriptorChannel
	file    *os.File
	answer  func(token uint64) *backendv1.OpenResponse
}

func (l *loose) Open(context.Context, *backendv1.OpenRequest) (*backendv1.OpenResponse, error) {
	token, err := l.channel.Send(l.file)
	if err != nil {
		return nil, err
	}
	return l.answer(token), nil
}

func TestDescriptorsOfARefusedAnswerAreClosed(t *testing.T) {
	good := &backendv1.Info{Size: lentSize, Replayable: true, Survives: backendv1.Survival_SURVIVAL_ACKNOWLEDGED}
	for want, answer := range map[string]func(token uint64) *backendv1.OpenResponse{
		"size -5": func(token uint64) *backendv1.OpenResponse {
			return &backendv1.OpenResponse{Disk: 7, Lane: "file", Loan: token, Info: &backendv1.Info{Size: -5}}
		},
		"size -6": func(token uint64) *backendv1.OpenResponse {
			return &backendv1.OpenResponse{Disk: 7, Lane: "file", Lease: token, Info: &backendv1.Info{Size: -6}}
		},
		`lane "ring"`: func(token uint64) *backendv1.OpenResponse {
			return &backendv1.OpenResponse{Disk: 7, Lane: "ring", Loan: token, Info: good}
		},
		`lane "rpc" only`: func(token uint64) *backendv1.OpenResponse {
			return &backendv1.OpenResponse{Disk: 7, Lane: "rpc", Loan: token, Info: good}
		},
		"lent no descriptor": func(token uint64) *backendv1.OpenResponse {
			return &backendv1.OpenResponse{Disk: 7, Lane: "file", Lease: token, Info: good}
		},
	} {
		l := &loose{file: openFile(t, lentSize, os.O_RDWR), answer: answer}
		line := wiretest.Serve(t, func(g *grpc.Server, plugin *wire.DescriptorChannel) {
			l.channel = plugin
			backendv1.RegisterBackendServer(g, l)
			pluginv1.RegisterPluginServer(g, l)
		})
		_, _ = line.Client.Describe(t.Context()) // now there is a connection
		before := descriptors(t)
		_, err := line.Client.OpenDisk(t.Context(), wire.Disk{Lanes: fileOnly})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("OpenDisk: %v, want an error about %s", err, want)
		}
		if now := descriptors(t); now != before || l.closed.Load() != 7 {
			t.Errorf("%s: %d descriptors are open, want %d; closed disk: %d", want, now, before, l.closed.Load())
		}
	}
}

// A plugin that lends badly and does not know ReturnLoan can still be called.
func TestRefusedLoanNeedNotBeReturnable(t *testing.T) {
	l := &loose{file: openFile(t, 1, os.O_RDWR), answer: func(token uint64) *backendv1.OpenResponse {
		return &backendv1.OpenResponse{Disk: 7, Lane: "file", Loan: token, Info: &backendv1.Info{
			Size: lentSize, Replayable: true, Survives: backendv1.Survival_SURVIVAL_ACKNOWLEDGED,
		}}
	}}
	line := wiretest.Serve(t, func(g *grpc.Server, plugin *wire.DescriptorChannel) {
		l.channel = plugin
		backendv1.RegisterBackendServer(g, l)
	})
	remote, err := line.Client.OpenDisk(t.Context(), wire.Disk{Lanes: fileOrRPC})
	if err != nil {
		t.Fatal(err)
	}
	if _, refused := remote.(wire.LentTaker).TakeLent(); refused == nil || !strings.Contains(refused.Error(), "can't be given back") {
		t.Errorf("refused: %v", refused)
	}
}
