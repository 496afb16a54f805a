// SPDX-License-Identifier: GPL-3.0-or-later

package privilege

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// IsRoot says whether this process can become somebody else.
func IsRoot() bool { return os.Geteuid() == 0 }

const leave = -1 // as it is

// Lower lets the process act as the user. It stays root behind that.
func (u *User) Lower() error {
	return u.change(func() error {
		return errors.Join(syscall.Setresgid(leave, int(u.GID), leave), syscall.Setresuid(leave, int(u.UID), leave))
	})
}

// Raise lets the process act as root again.
func Raise() error {
	// The user first: only root may change the group.
	if err := errors.Join(syscall.Setresuid(leave, 0, leave), syscall.Setresgid(leave, 0, leave)); err != nil {
		return fmt.Errorf("cannot become root again: %w", err)
	}
	return nil
}

// Become makes the process the user's, for good. It acts as root or as the user.
func (u *User) Become() error {
	if !IsRoot() {
		if err := Raise(); err != nil {
			return err
		}
	}
	return u.change(func() error {
		return errors.Join(
			syscall.Setresgid(int(u.GID), int(u.GID), int(u.GID)),
			syscall.Setresuid(int(u.UID), int(u.UID), int(u.UID)))
	})
}

func (u *User) change(to func() error) error {
	groups := make([]int, len(u.Groups))
	for i, g := range u.Groups {
		groups[i] = int(g)
	}
	if err := errors.Join(syscall.Setgroups(groups), to()); err != nil {
		return fmt.Errorf("cannot become user %d of group %d: %w", u.UID, u.GID, err)
	}
	return nil
}
