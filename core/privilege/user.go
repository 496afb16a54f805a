// SPDX-License-Identifier: GPL-3.0-or-later

package privilege

import (
	"errors"
	"fmt"
	"math"
	"os/user"
	"strconv"
)

// User is who a process runs as.
type User struct {
	Name   string   `json:"name,omitempty"` // empty for a number that nobody knows
	Home   string   `json:"home,omitempty"`
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"` // supplementary ones
}

// Lookup finds a user by name or number, with the groups that the system's database
// gives to it. group, a name or a number, takes the place of the user's own group, and
// is needed for a number that the database does not know.
func Lookup(name, group string) (*User, error) {
	account, err := user.Lookup(name)
	if _, wrong := strconv.ParseUint(name, 10, 32); err != nil && wrong == nil {
		account, err = user.LookupId(name)
		if errors.As(err, new(user.UnknownUserIdError)) {
			return unknown(name, group)
		}
	}
	switch {
	case errors.As(err, new(user.UnknownUserError)):
		return nil, fmt.Errorf("this machine knows no user %q", name)
	case err != nil:
		return nil, fmt.Errorf("look up user %q: %w", name, err)
	}
	u := &User{Name: account.Username, Home: account.HomeDir}
	if u.UID, err = number(account.Uid); err != nil {
		return nil, err
	}
	if u.GID, err = number(account.Gid); err != nil {
		return nil, err
	}
	ids, err := account.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("look up the groups of user %q: %w", name, err)
	}
	for _, id := range ids {
		n, err := number(id)
		if err != nil {
			return nil, err
		}
		u.Groups = append(u.Groups, n)
	}
	if group != "" {
		u.GID, err = LookupGroup(group)
	}
	return u, err
}

// Environment is what a session of the user's would have in its environment.
func (u *User) Environment() []string {
	home := u.Home
	if home == "" {
		home = "/"
	}
	return []string{"HOME=" + home, "USER=" + u.Name, "LOGNAME=" + u.Name}
}

// unknown is a user who is a number and nothing else.
func unknown(name, group string) (*User, error) {
	if group == "" {
		return nil, fmt.Errorf("this machine knows no user %s, so its group has to be given too", name)
	}
	uid, err := number(name)
	if err != nil {
		return nil, err
	}
	gid, err := LookupGroup(group)
	return &User{UID: uid, GID: gid}, err
}

// LookupGroup finds a group by name or number.
func LookupGroup(name string) (uint32, error) {
	g, err := user.LookupGroup(name)
	if err == nil {
		return number(g.Gid)
	}
	if id, wrong := number(name); wrong == nil {
		return id, nil
	}
	if errors.As(err, new(user.UnknownGroupError)) {
		return 0, fmt.Errorf("this machine knows no group %q", name)
	}
	return 0, fmt.Errorf("look up group %q: %w", name, err)
}

// LookupUser finds a user's number by name or number.
func LookupUser(name string) (uint32, error) {
	u, err := user.Lookup(name)
	if err == nil {
		return number(u.Uid)
	}
	if id, wrong := number(name); wrong == nil {
		return id, nil
	}
	if errors.As(err, new(user.UnknownUserError)) {
		return 0, fmt.Errorf("this machine knows no user %q", name)
	}
	return 0, fmt.Errorf("look up user %q: %w", name, err)
}

// number reads a user's or a group's number. The largest one means "leave as it is" to
// the kernel.
func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == math.MaxUint32 {
		return 0, fmt.Errorf("%q is no number from 0 to %d", s, uint32(math.MaxUint32-1))
	}
	return uint32(n), nil
}
