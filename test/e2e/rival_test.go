// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// rival is another server that would like to have a disk that is being served. It
// tries to lock it as the stock backends do, as often as it can.
type rival struct {
	t *testing.T
	// take tries once. It returns an error that says that somebody has the
	// disk, or nil, and gives it back then.
	take  func() error
	tries int
	taken int
}

// newRival makes one that does not try yet.
func newRival(t *testing.T, b setting, path string) *rival {
	t.Helper()
	r := &rival{t: t, take: func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}}
	if b.name == "blockdev" {
		return r
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	r.take = func() error { return takeLock(fd) }
	return r
}

// takeLock tries a reader's lock and then a writer's.
func takeLock(fd int) error {
	for _, kind := range []int16{unix.F_RDLCK, unix.F_WRLCK} {
		err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind})
		if err == nil {
			return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return err
		}
	}
	return unix.EBUSY
}

// tryDuring tries while do runs.
func (r *rival) tryDuring(do func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
			}
			r.tries++
			if err := r.take(); err == nil {
				r.taken++
			} else if !errors.Is(err, unix.EBUSY) {
				r.t.Errorf("another server tries to take the disk: %v", err)
				return
			}
		}
	}()
	defer func() { close(done); <-ended }()
	do()
}

// check is for after the server's end: the disk was never to be had before, and is
// now.
func (r *rival) check() {
	r.t.Helper()
	if r.taken > 0 || r.tries < 100 {
		r.t.Errorf("another server could have taken the disk %d times of the %d that it tried, want 0 of many", r.taken, r.tries)
	}
	if err := r.take(); err != nil {
		r.t.Errorf("nobody serves the disk, and yet it cannot be taken: %v", err)
	}
}
