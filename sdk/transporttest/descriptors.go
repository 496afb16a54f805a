// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// rounds is how often everything is done while descriptors are counted; a
// leak in any of it shows as many times.
const rounds = 16

// noDescriptorLeaks: when everything is closed, no descriptor is left, here or
// in the processes of Subject.PIDs.
func noDescriptorLeaks(ctx context.Context, t *trial) error {
	// The first round opens what stays open: the poller, for one.
	if err := try(ctx, t.Subject, t.patience, everything); err != nil {
		return err
	}
	processes := []string{"self"}
	for _, pid := range t.PIDs {
		processes = append(processes, fmt.Sprint(pid))
	}
	before := make(map[string]map[string]int)
	for _, p := range processes {
		open, err := descriptors(p)
		if err != nil {
			return err
		}
		before[p] = open
	}
	for range rounds {
		if err := try(ctx, t.Subject, t.patience, everything); err != nil {
			return err
		}
	}
	for _, p := range processes {
		if err := t.awaitDescriptors(ctx, p, before[p]); err != nil {
			return err
		}
	}
	return nil
}

// everything does once what could leave a descriptor behind.
func everything(ctx context.Context, t *trial) error {
	l, err := t.listen(ctx, t.Listen)
	if err != nil {
		return err
	}
	p, err := t.connectTo(ctx, l, transport.Address{})
	if err != nil {
		return err
	}
	if err := p.greet(1); err != nil {
		return err
	}
	if _, err := t.listen(ctx, l.Address()); err == nil {
		return errors.New("a second Listen at one address succeeds")
	}
	soon, cancel := context.WithCancel(ctx)
	accepting := t.accept(soon, l)
	cancel()
	if _, err := accepting.wait(); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("a cancelled Accept returns %v", err)
	}
	if _, err := t.dial(soon, l.Address(), transport.Address{}).wait(); err == nil {
		return errors.New("a Dial succeeds although its context has ended")
	}
	if err := t.close(l); err != nil {
		return err
	}
	// Whether this one fails is another clause's business.
	_, err = t.dial(ctx, l.Address(), transport.Address{}).wait()
	if errors.Is(err, errHangs) {
		return err
	}
	return nil
}

// awaitDescriptors waits until a process has nothing open that it had not
// before: a plugin may close its copies a moment after it has handed them over.
func (t *trial) awaitDescriptors(ctx context.Context, process string, before map[string]int) error {
	deadline := time.Now().Add(t.patience)
	for {
		now, err := descriptors(process)
		if err != nil {
			return err
		}
		leaked := added(before, now)
		if len(leaked) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %d rounds, process %s has descriptors open that it did not have before: %s",
				rounds, process, strings.Join(leaked, ", "))
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// added lists what is open more often now than it was before. Numbers alone
// would not do: an old descriptor that is closed meanwhile, by the garbage
// collector even, would make up for a leaked one.
func added(before, now map[string]int) []string {
	var leaked []string
	for file, count := range now {
		if count > before[file] {
			leaked = append(leaked, fmt.Sprintf("%d of %s", count-before[file], file))
		}
	}
	slices.Sort(leaked)
	return leaked
}

// descriptors counts how often a process has each file open. Sockets and pipes
// are named by their inodes ("socket:[4711]").
func descriptors(process string) (map[string]int, error) {
	dir := "/proc/" + process + "/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("count descriptors: %w", err)
	}
	open := make(map[string]int)
	for _, e := range entries {
		// One that is gone by now was not leaked.
		if file, err := os.Readlink(dir + "/" + e.Name()); err == nil {
			open[file]++
		}
	}
	return open, nil
}
