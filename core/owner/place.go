// SPDX-License-Identifier: GPL-3.0-or-later

package owner

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
)

// How the records' names end. None of these is the end of another, so the records
// of two images in one folder cannot meet.
const (
	suffixIncomplete = ".INCOMPLETE"
	suffixReceived   = ".RECEIVED"
	suffixNext       = ".MIGRATED.next"
	suffixMigrated   = ".MIGRATED"
	suffixLock       = ".LOCK"
	suffixTemporary  = ".new" // behind one of the first four
)

const (
	maxName = 255 // the longest name of a file, in bytes
	// maxSuffix is what is left for the longest ending.
	maxSuffix = len(suffixNext + suffixTemporary)
	// maxKey bounds the readable part of a name in a state directory.
	maxKey = 160
)

// Place is where the records of one disk are: Dir/Name.INCOMPLETE and so on. Make
// one with [Beside] or [InState].
type Place struct {
	Dir, Name string

	// StateDir: Dir holds the records of many disks. It is made when it is first
	// written to, and a lock file in it keeps other servers of the same disk away.
	StateDir bool
}

// Beside is the place beside an image file, which must exist. Symbolic links are
// followed, so that every path to an image leads to the same records; of several
// hard links each has records of its own. A name of more than 237 bytes is an
// error ([syscall.ENAMETOOLONG]): there cannot be records beside it.
func Beside(file string) (Place, error) {
	path, err := filepath.EvalSymlinks(file) // first, since Abs takes "link/.." for nothing
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err == nil {
		path, err = filepath.EvalSymlinks(path) // and the working directory's path
	}
	if err != nil {
		return Place{}, fmt.Errorf("find out where the migration records of %s are: %w", file, err)
	}
	p := Place{Dir: filepath.Dir(path), Name: filepath.Base(path)}
	if len(p.Name)+maxSuffix > maxName {
		return Place{}, fmt.Errorf("%s: %w for migration records beside it: use a name of at most %d bytes",
			path, syscall.ENAMETOOLONG, maxName-maxSuffix)
	}
	return p, nil
}

// InState is a place in a state directory. key is what stays with the disk: an
// identity, or a location together with what gives it a meaning, such as the name
// of the backend. Different keys get different names. A name is the key itself
// where that is short and plain; other bytes become %XX, which url.PathUnescape
// undoes, and a long key is cut and followed by its SHA-256.
func InState(dir, key string) Place {
	return Place{Dir: dir, Name: keyName(key), StateDir: true}
}

func keyName(key string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(key) && b.Len() <= maxKey; i++ {
		c := key[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '-', c == '_', c == '.' && i > 0: // a leading dot would hide the records
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	if b.Len() > 0 && b.Len() <= maxKey {
		return b.String()
	}
	// "~" is in no name made above.
	sum := sha256.Sum256([]byte(key))
	return b.String()[:min(b.Len(), maxKey/2)] + "~" + hex.EncodeToString(sum[:])
}

// Incomplete, Received, Next and Migrated are the paths of the records.
func (p Place) Incomplete() string { return p.path(suffixIncomplete) }

// Received is the path of the record of this name.
func (p Place) Received() string { return p.path(suffixReceived) }

// Next is the path of .MIGRATED.next.
func (p Place) Next() string { return p.path(suffixNext) }

// Migrated is the path of the record of this name.
func (p Place) Migrated() string { return p.path(suffixMigrated) }

// String is what all paths begin with.
func (p Place) String() string { return p.path("") }

func (p Place) path(suffix string) string { return filepath.Join(p.Dir, p.Name+suffix) }
