// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"strconv"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

func TestStoreInAProcessKeepsTheContract(t *testing.T) {
	p, _ := started(t, self("test-memory"))
	storetest.Run(t, func(t testing.TB, size int64) store.Store {
		s, err := p.OpenDisk(t.Context(), wire.Disk{Location: strconv.FormatInt(size, 10)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
