// SPDX-License-Identifier: GPL-3.0-or-later

package blockdev

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// wantError ends the test unless err wraps errno, would reach a client as it,
// and says each of the words.
func wantError(t *testing.T, err error, errno unix.Errno, words ...string) {
	t.Helper()
	if !errors.Is(err, errno) || store.Errno(err) != errno {
		t.Fatalf("error is %v, want one that wraps %v", err, errno)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("error %q does not say %q", err, w)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for _, c := range []struct {
		errno    unix.Errno
		readOnly bool
		hint     string
	}{
		{unix.ENOENT, false, "attach the device first"},
		{unix.ENOTDIR, false, "not a directory"},
		{unix.EBUSY, false, "end that first"},
		{unix.EACCES, false, "read and write the device"},
		{unix.EACCES, true, "runs as read the device"},
		{unix.EPERM, false, "read and write the device"},
		{unix.EROFS, false, "--read-only"},
		{unix.ENXIO, false, "load its driver"},
		{unix.ENODEV, false, "load its driver"},
		{unix.ENOMEDIUM, false, "insert"},
		{unix.ELOOP, false, "circle"},
		{unix.EMFILE, false, "raise the limit"},
		{unix.EIO, false, "system's log"},
	} {
		err := explain("/dev/sdx", c.readOnly, fmt.Errorf("open: %w", c.errno))
		wantError(t, err, c.errno, "/dev/sdx", c.hint, c.errno.Error())
	}
	if err := explainKind("a", 0o600); err == nil {
		t.Error("something unknown passes for a block device")
	}
}
