// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// Disk is the model of a disk: what was done to it, by any number of Loads, and what
// they saw. It starts with zeroes.
type Disk struct {
	sectors int64
	tag     uint64 // in every sector, so that another disk's content is noticed
	began   time.Time

	mu      sync.Mutex
	writers int // numbers given to connections
	fills   uint64
	history []*operation // by time of sending; guarded by mu, their fields too
}

// NewDisk makes the model of a disk of size bytes, a multiple of SectorSize.
func NewDisk(size int64) *Disk {
	if size <= 0 || size%SectorSize != 0 {
		panic(fmt.Sprintf("journal: a disk of %d bytes", size))
	}
	return &Disk{sectors: size / SectorSize, tag: rand.Uint64(), began: time.Now()}
}

// Size returns the disk's size in bytes.
func (d *Disk) Size() int64 { return d.sectors * SectorSize }

// fillPiece is how much Fill writes at once, in sectors.
const fillPiece = 2048

// Fill writes length bytes at off to an image that nobody serves yet, and notes it.
// Both are multiples of SectorSize.
func (d *Disk) Fill(image io.WriterAt, off, length int64) error {
	first, count := off/SectorSize, length/SectorSize
	if off%SectorSize != 0 || length%SectorSize != 0 || off < 0 || count <= 0 || count > d.sectors-first {
		return fmt.Errorf("journal: can't fill %d bytes at %d: not sectors of a disk of %d bytes", length, off, d.Size())
	}
	d.mu.Lock()
	d.fills++
	v := valueOf(filler, d.fills)
	d.mu.Unlock()

	o := d.call(operation{kind: write, writer: filler, first: first, count: count, value: v, server: "Fill"})
	buf := make([]byte, min(fillPiece, count)*SectorSize)
	for done := int64(0); done < count; {
		n := min(fillPiece, count-done)
		encode(buf[:n*SectorSize], d.tag, v, first+done)
		if _, err := image.WriteAt(buf[:n*SectorSize], (first+done)*SectorSize); err != nil {
			return fmt.Errorf("journal: filling the image: %w", err)
		}
		done += n
	}
	d.answer(o, nil)
	return nil
}

// connections gives numbers to n connections and returns the first.
func (d *Disk) connections(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	first := d.writers + 1
	d.writers += n
	return first
}

func (d *Disk) now() int64 { return int64(time.Since(d.began)) }

// call notes an attempt that is about to be sent.
func (d *Disk) call(o operation) *operation {
	d.mu.Lock()
	defer d.mu.Unlock()
	o.call, o.ret = d.now(), open
	if o.began == 0 {
		o.began = o.call
	}
	d.history = append(d.history, &o)
	return &o
}

// answer notes the answer to an attempt. From now on the broken attempts before it
// can't take effect any more.
func (d *Disk) answer(o *operation, broken []*operation) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o.ret, o.answered = d.now(), true
	for _, b := range broken {
		b.ret = o.ret
	}
}

// snapshot copies the history, without the reads that have no answer.
func (d *Disk) snapshot() []operation {
	d.mu.Lock()
	defer d.mu.Unlock()
	history := make([]operation, 0, len(d.history))
	for _, o := range d.history {
		if o.changes() || o.answered {
			history = append(history, *o)
		}
	}
	return history
}
