// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/flexnbd/flexnbd/core/control"
	"github.com/flexnbd/flexnbd/core/privilege"
	"github.com/flexnbd/flexnbd/core/sandbox"
)

// safetyOptions say what a server, once it serves, may still do, and who may control it.
type safetyOptions struct {
	NoSandbox bool   `long:"no-sandbox" description:"Do not confine flexnbd and its plugins to what they need"`
	User      string `long:"user" value-name:"USER" description:"Started as root: become this user, a name or a number, once the disk and the address are open; plugins run as this user too"`
	Group     string `long:"group" value-name:"GROUP" description:"With --user: become a member of this group instead of the user's own"`
	SockOwner string `long:"sock-owner" value-name:"USER[:GROUP]" description:"Who owns the control socket (default: --user, else whoever starts flexnbd)"`
	SockMode  *mode  `long:"sock-mode" value-name:"MODE" description:"The mode of the control socket, in octal (default: 600)"`
}

// mode is the permission bits of a file.
type mode fs.FileMode

// UnmarshalFlag implements flags.Unmarshaler.
func (m *mode) UnmarshalFlag(value string) error {
	n, err := strconv.ParseUint(value, 8, 32)
	if err != nil || n > 0o777 {
		return usagef("%q is no mode: three octal digits, as in 660", value)
	}
	*m = mode(n)
	return nil
}

// user is who the server becomes, or nil.
func (o *safetyOptions) user() (*privilege.User, error) {
	if o.User == "" {
		if o.Group != "" {
			return nil, usagef("--group %s needs --user", o.Group)
		}
		return nil, nil
	}
	u, err := privilege.Lookup(o.User, o.Group)
	if err != nil {
		return nil, usagef("--user %s: %w", o.User, err)
	}
	if !privilege.IsRoot() {
		if int(u.UID) == os.Getuid() && o.Group == "" {
			return nil, nil // it is
		}
		return nil, usagef("--user %s: only root can become another user; start flexnbd as that user instead", o.User)
	}
	if rights := []sandbox.Capability{sandbox.SetUID, sandbox.SetGID}; len(sandbox.Held(rights)) < len(rights) {
		return nil, usagef("--user %s: this root may not become another user: CAP_SETUID and CAP_SETGID were taken from it, by a container perhaps", o.User)
	}
	return u, nil
}

// socket is how the control socket is made.
func (o *safetyOptions) socket(user *privilege.User) (control.Socket, error) {
	s := control.Socket{Mode: 0o600, UID: -1, GID: -1, LeavePath: true} // to the launcher
	if o.SockMode != nil {
		s.Mode = fs.FileMode(*o.SockMode)
	}
	if user != nil {
		s.UID, s.GID = int(user.UID), int(user.GID)
	}
	owner, group, _ := strings.Cut(o.SockOwner, ":")
	if owner != "" {
		uid, err := privilege.LookupUser(owner)
		if err != nil {
			return s, usagef("--sock-owner %s: %w", o.SockOwner, err)
		}
		s.UID = int(uid)
	}
	if group != "" {
		gid, err := privilege.LookupGroup(group)
		if err != nil {
			return s, usagef("--sock-owner %s: %w", o.SockOwner, err)
		}
		s.GID = int(gid)
	}
	return s, nil
}
