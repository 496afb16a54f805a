// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// lender is an fdstore with one method, or more, replaced.
type lender struct {
	*fdstore.Store
	file  *os.File
	info  func(store.Info) store.Info
	write func(l *lender, ctx ctxt, p []byte, off int64, f flags) error
	read  func(l *lender, ctx ctxt, p []byte, off int64) error
	punch func(l *lender, ctx ctxt, off, length int64, f flags) error
	lend  func(l *lender) *store.Loan

	once sync.Once
	loan *store.Loan // what lend has returned first
}

func (l *lender) Info() store.Info {
	if l.info != nil {
		return l.info(l.Store.Info())
	}
	return l.Store.Info()
}

func (l *lender) ReadAt(ctx ctxt, p []byte, off int64) error {
	if l.read != nil {
		return l.read(l, ctx, p, off)
	}
	return l.Store.ReadAt(ctx, p, off)
}

func (l *lender) WriteAt(ctx ctxt, p []byte, off int64, f flags) error {
	if l.write != nil {
		return l.write(l, ctx, p, off, f)
	}
	return l.Store.WriteAt(ctx, p, off, f)
}

func (l *lender) PunchHole(ctx ctxt, off, length int64, f flags) error {
	if l.punch != nil {
		return l.punch(l, ctx, off, length, f)
	}
	return l.Store.PunchHole(ctx, off, length, f)
}

func (l *lender) Lend() *store.Loan {
	if l.lend == nil {
		return l.Store.Lend()
	}
	l.once.Do(func() { l.loan = l.lend(l) })
	return l.loan
}

// forgetful makes a loan whenever it is asked.
type forgetful struct{ *lender }

func (f forgetful) Lend() *store.Loan { return store.NewLoan(f.file) }

// lendReopened lends the same file, opened with flag.
func lendReopened(t testing.TB, flag int) func(*lender) *store.Loan {
	return func(l *lender) *store.Loan { return store.NewLoan(openFile(t, l.file.Name(), flag)) }
}

// lendAnother lends a file of its own, larger by more bytes.
func lendAnother(t testing.TB, more int64) func(*lender) *store.Loan {
	return func(l *lender) *store.Loan {
		return store.NewLoan(openFile(t, newFile(t, l.Store.Info().Size+more), os.O_RDWR))
	}
}

func newFile(t testing.TB, size int64) string {
	path := t.TempDir() + "/disk"
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func openFile(t testing.TB, path string, flag int) *os.File {
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// onFile puts a lender on a file of size bytes.
func onFile(t testing.TB, l *lender, size int64) *lender {
	l.file = openFile(t, newFile(t, size), os.O_RDWR)
	var err error
	if l.Store, err = fdstore.New(l.file, fdstore.Options{}); err != nil {
		t.Fatal(err)
	}
	return l
}

// lenderBreakages are ways to get lending wrong.
var lenderBreakages = []struct {
	clause, does string
	make         func(t testing.TB) *lender
}{
	{"LentDescriptorFitsTheFacts", "lends a file that is a byte longer", func(t testing.TB) *lender {
		return &lender{lend: lendAnother(t, 1)}
	}},
	{"LentDescriptorFitsTheFacts", "lends for reading only", func(t testing.TB) *lender {
		return &lender{lend: lendReopened(t, os.O_RDONLY)}
	}},
	{"LentDescriptorFitsTheFacts", "lends for appending", func(t testing.TB) *lender {
		return &lender{lend: lendReopened(t, os.O_RDWR|os.O_APPEND)}
	}},
	{"LentDescriptorFitsTheFacts", "lends a device that is none for blocks", func(t testing.TB) *lender {
		return &lender{lend: func(*lender) *store.Loan { return store.NewLoan(openFile(t, os.DevNull, os.O_RDWR)) }}
	}},
	{"LentDescriptorFitsTheFacts", "lends though it keeps nothing", func(testing.TB) *lender {
		return &lender{info: func(i store.Info) store.Info { i.Survives = store.SurvivesFlushed; return i }}
	}},
	{"LentDescriptorFitsTheFacts", "lends though writes may be on their way", func(testing.TB) *lender {
		return &lender{info: func(i store.Info) store.Info { i.Replayable = false; return i }}
	}},
	{"LentBytesAreTheDisks", "lends another file", func(t testing.TB) *lender {
		return &lender{lend: lendAnother(t, 0)}
	}},
	{"LentBytesAreTheDisks", "has what it stores turned round in the file", func(testing.TB) *lender {
		turn := func(p []byte) []byte {
			p = bytes.Clone(p)
			for i := range p {
				p[i] = ^p[i]
			}
			return p
		}
		return &lender{
			write: func(l *lender, ctx ctxt, p []byte, off int64, f flags) error {
				return l.Store.WriteAt(ctx, turn(p), off, f)
			},
			read: func(l *lender, ctx ctxt, p []byte, off int64) error {
				err := l.Store.ReadAt(ctx, p, off)
				copy(p, turn(p))
				return err
			},
		}
	}},
	{"LentBytesAreTheDisks", "keeps its punches in a list of its own", func(testing.TB) *lender {
		var mu sync.Mutex
		var punched []span
		return &lender{
			punch: func(_ *lender, _ ctxt, off, length int64, _ flags) error {
				mu.Lock()
				defer mu.Unlock()
				punched = append(punched, span{off, length})
				return nil
			},
			read: func(l *lender, ctx ctxt, p []byte, off int64) error {
				mu.Lock()
				defer mu.Unlock()
				err := l.Store.ReadAt(ctx, p, off)
				for i := range p {
					for _, s := range punched {
						if at := off + int64(i); at >= s.off && at < s.end() {
							p[i] = 0
						}
					}
				}
				return err
			},
		}
	}},
	{"LentNeighboursAreLeftAlone", "reads, changes and writes back whole blocks, which it locks for itself", func(testing.TB) *lender {
		var mu sync.Mutex
		return &lender{write: func(l *lender, ctx ctxt, p []byte, off int64, f flags) error {
			mu.Lock()
			defer mu.Unlock()
			start, end := off&^4095, min(roundUp(off+int64(len(p)), 4096), l.Store.Info().Size)
			block := make([]byte, end-start)
			if err := l.Store.ReadAt(ctx, block, start); err != nil {
				return err
			}
			time.Sleep(time.Millisecond) // the others write all the time
			copy(block[off-start:], p)
			return l.Store.WriteAt(ctx, block, start, f)
		}}
	}},
	{"LoanIsOutUntilItIsReturned", "takes its loan for returned", func(testing.TB) *lender {
		return &lender{lend: func(l *lender) *store.Loan {
			loan := store.NewLoan(l.file)
			loan.Return()
			return loan
		}}
	}},
	{"LoanIsOutUntilItIsReturned", "begins with taking back", func(testing.TB) *lender {
		return &lender{lend: func(l *lender) *store.Loan {
			loan := store.NewLoan(l.file)
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_ = loan.Revoke(ctx)
			return loan
		}}
	}},
}

func TestBrokenLendersAreCaught(t *testing.T) {
	for _, breakage := range lenderBreakages {
		t.Run(breakage.does, func(t *testing.T) {
			caughtWith(t, breakage.clause, breakage.does, func(t testing.TB, size int64) store.Store {
				return onFile(t, breakage.make(t), size)
			})
		})
	}
	t.Run("makes a new loan each time", func(t *testing.T) {
		caughtWith(t, "LentDescriptorFitsTheFacts", "makes a new loan each time", func(t testing.TB, size int64) store.Store {
			return forgetful{onFile(t, &lender{}, size)}
		})
	})
}

// caughtWith ends the test if the clause passes with open's disks.
func caughtWith(t *testing.T, name, does string, open Factory) {
	t.Helper()
	b := benchFor(t, open)
	c := clauseNamed(t, name)
	if !c.applies(b) {
		t.Fatalf("%s is left out for a store that %s", name, does)
	}
	failures := perform(t, c, b)
	if len(failures) == 0 {
		t.Fatalf("%s passes with a store that %s", name, does)
	}
	t.Logf("caught: %s", failures[0])
}

func TestSoundLenderPasses(t *testing.T) {
	open := func(t testing.TB, size int64) store.Store { return onFile(t, &lender{}, size) }
	b := benchFor(t, open)
	for _, c := range clauses {
		if c.name == "LentNeighboursAreLeftAlone" && !c.applies(b) {
			t.Errorf("%s is left out for a store that lends", c.name)
		}
	}
	Run(t, open)
}
