// SPDX-License-Identifier: GPL-3.0-or-later

package check

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// place is where disks come from.
type place struct {
	location string
	options  map[string]string
	overhead int64 // how many bytes more than the disk's a fresh one takes, for a header say
}

// Words that are replaced.
const (
	sizeWord = "{size}"
	dirWord  = "{dir}"
)

// fresh says whether there is a new disk each time.
func (p *place) fresh() bool { return p.has(sizeWord) || p.has(dirWord) }

func (p *place) has(word string) bool {
	for _, value := range p.options {
		if strings.Contains(value, word) {
			return true
		}
	}
	return strings.Contains(p.location, word)
}

// disk names a disk of size bytes, which it makes if it has to. remove clears away what
// it made.
func (p *place) disk(size int64) (disk wire.Disk, remove func() error, err error) {
	size += p.overhead
	dir := ""
	remove = func() error { return nil }
	if p.has(dirWord) {
		if dir, err = newFolder(size); err != nil {
			return wire.Disk{}, nil, err
		}
		remove = func() error { return os.RemoveAll(dir) }
	}
	replace := strings.NewReplacer(sizeWord, strconv.FormatInt(size, 10), dirWord, dir)
	disk = wire.Disk{Location: replace.Replace(p.location), Options: make(map[string]string)}
	for key, value := range p.options {
		disk.Options[key] = replace.Replace(value)
	}
	return disk, remove, nil
}

// newFolder makes a folder with a sparse file in it.
func newFolder(size int64) (string, error) {
	dir, err := os.MkdirTemp("", "flexnbd-check-")
	if err != nil {
		return "", fmt.Errorf("no folder for a disk to check on: %w", err)
	}
	path := filepath.Join(dir, "disk")
	err = os.WriteFile(path, nil, 0o600)
	if err == nil {
		err = os.Truncate(path, size)
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", fmt.Errorf("no file for a disk to check on: %w", err)
	}
	return dir, nil
}
