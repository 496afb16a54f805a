// SPDX-License-Identifier: GPL-3.0-or-later

package sandbox

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Enter confines this process to the policy, for good. With a kernel that lacks
// something it does what is left, and says so in the report; an error means that the
// kernel has what was asked for and refused it, with an unknown part done.
//
// It may be called again, to take away more. The goroutine that calls it may go on on
// any thread.
func Enter(p Policy) (Report, error) {
	report := Found()
	if err := limit(p); err != nil {
		return report, err
	}
	if err := restrictPaths(p); err != nil {
		return report, fmt.Errorf("cannot confine this process with Landlock: %w", err)
	}
	if err := keepCapabilities(p.Capabilities); err != nil {
		return report, err
	}
	if p.Modes {
		unix.Umask(0)
	}
	if err := restrictCalls(p); err != nil {
		return report, fmt.Errorf("cannot confine this process with seccomp: %w", err)
	}
	return report, nil
}

// Found is what the kernel has.
func Found() Report { return Report{Landlock: landlockABI(), Seccomp: hasSeccomp()} }

// limit sets the resource limits, soft and hard.
func limit(p Policy) error {
	for _, l := range []struct {
		resource int
		what     string
		most     uint64
		set      bool
	}{
		{unix.RLIMIT_CORE, "core dumps", 0, true},
		{unix.RLIMIT_NOFILE, "descriptors", p.Descriptors, p.Descriptors > 0},
		{unix.RLIMIT_DATA, "memory", p.Memory, p.Memory > 0},
	} {
		if !l.set {
			continue
		}
		var now unix.Rlimit
		if err := unix.Getrlimit(l.resource, &now); err != nil {
			return fmt.Errorf("cannot look up the limit of %s: %w", l.what, err)
		}
		most := min(l.most, now.Max)
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return fmt.Errorf("cannot limit %s to %d: %w", l.what, most, err)
		}
	}
	return nil
}

// DropCapabilities gives up all capabilities, on all threads.
func DropCapabilities() error { return keepCapabilities(nil) }

// Held are those of the capabilities that this process has.
func Held(of []Capability) []Capability {
	now := cap.GetProc()
	return slices.DeleteFunc(slices.Clone(of), func(c Capability) bool {
		has, err := now.GetFlag(cap.Permitted, cap.Value(c))
		return err != nil || !has
	})
}

// keepCapabilities gives up all capabilities but these, on all threads.
func keepCapabilities(keep []Capability) error {
	left := cap.NewSet()
	for _, c := range Held(keep) {
		// Inheritable, so that a program that is executed has them, too.
		for _, flag := range []cap.Flag{cap.Permitted, cap.Effective, cap.Inheritable} {
			if err := left.SetFlag(flag, true, cap.Value(c)); err != nil {
				return fmt.Errorf("cannot keep capability %v: %w", cap.Value(c), err)
			}
		}
	}
	if err := left.SetProc(); err != nil {
		return fmt.Errorf("cannot give up capabilities: %w", err)
	}
	return nil
}
