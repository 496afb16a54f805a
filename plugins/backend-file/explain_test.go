// SPDX-License-Identifier: GPL-3.0-or-later

package file

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
		{unix.ENOENT, false, "create the image first"},
		{unix.ENOTDIR, false, "not a directory"},
		{unix.EACCES, false, "read and write the image"},
		{unix.EACCES, true, "read the image"},
		{unix.EPERM, false, "read and write the image"},
		{unix.EROFS, false, "serve it read-only"},
		{unix.ETXTBSY, false, "serve it read-only"},
		{unix.ELOOP, false, "circle"},
		{unix.EMFILE, false, "raise the limit"},
		{unix.EIO, false, "system's log"},
	} {
		err := explain("/srv/a.img", c.readOnly, fmt.Errorf("open: %w", c.errno))
		wantError(t, err, c.errno, "/srv/a.img", c.hint, c.errno.Error())
	}
}

func TestOnlyRegularFilesAreImages(t *testing.T) {
	if err := explainKind("a", unix.S_IFREG|0o600); err != nil {
		t.Errorf("a regular file is refused: %v", err)
	}
	for kind, c := range map[uint32]struct {
		errno unix.Errno
		hint  string
	}{
		unix.S_IFDIR:  {unix.EISDIR, "a directory; name the image file in it"},
		unix.S_IFBLK:  {unix.EINVAL, "a block device; use --backend blockdev"},
		unix.S_IFCHR:  {unix.EINVAL, "a character device"},
		unix.S_IFIFO:  {unix.EINVAL, "a FIFO"},
		unix.S_IFSOCK: {unix.EINVAL, "a socket"},
		0:             {unix.EINVAL, "unknown kind"},
	} {
		wantError(t, explainKind("/srv/a.img", kind|0o600), c.errno, "/srv/a.img", c.hint)
	}
}
