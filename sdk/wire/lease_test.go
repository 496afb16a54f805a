// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/option"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// Whatever a backend does with its lease: once it has failed to open the disk, nothing
// in its process holds the lock.
func TestLeaseOfAFailedOpenIsClosed(t *testing.T) {
	no := errors.New("the header is gone")
	for name, open := range map[string]wire.Opener{
		"ignored": func(context.Context, wire.Disk) (store.Store, error) { return nil, no },
		"closed": func(_ context.Context, d wire.Disk) (store.Store, error) {
			return nil, errors.Join(no, d.Lease.Close())
		},
		"taken": func(_ context.Context, d wire.Disk) (store.Store, error) {
			s, err := fdstore.Reopen(d.Lease, "test", fdstore.Options{})
			if err != nil {
				return nil, err
			}
			return nil, errors.Join(no, s.Close())
		},
		"not even looked at": nil,
	} {
		t.Run(name, func(t *testing.T) {
			served := wire.Served{Open: open}
			if open == nil {
				served.Open = opener(memstore.New(0))
				served.Description.Options = option.Set{{Name: "key", Required: true}}
				served.Description.DeclaresOptions = true
			}
			line := wiretest.New(t, served)
			lease := openFile(t, lentSize, os.O_RDWR)
			_, _ = line.Client.Describe(t.Context()) // now there is a connection
			before := descriptors(t)
			_, err := line.Client.OpenDisk(t.Context(), wire.Disk{Lease: lease})
			if err == nil || open != nil && err.Error() != no.Error() {
				t.Errorf("OpenDisk: %v", err)
			}
			if now := descriptors(t); now != before {
				t.Errorf("%d descriptors are open, want %d", now, before)
			}
		})
	}
}

func TestLeaseOfAnOpenDiskStaysOpen(t *testing.T) {
	var lease *os.File
	line := wiretest.New(t, wire.Served{Open: func(_ context.Context, d wire.Disk) (store.Store, error) {
		lease = d.Lease
		return memstore.New(0), nil
	}})
	if _, err := line.Client.OpenDisk(t.Context(), wire.Disk{Lease: openFile(t, lentSize, os.O_RDWR)}); err != nil {
		t.Fatal(err)
	}
	if _, err := lease.Stat(); err != nil {
		t.Error(err)
	}
	_ = lease.Close()
}
