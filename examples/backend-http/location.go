// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"syscall"
)

// location is where an image is. String is for logs and errors, and keeps what may be
// a secret: the password, and the query, where signed links have their key.
type location struct{ url *url.URL }

const writeURL = "write for example --file https://images.example.org/disk.img"

// parseLocation reads what --file says.
func parseLocation(s string) (location, error) {
	refuse := func(why string) (location, error) {
		return location{}, &failure{words: why + "; " + writeURL, errno: syscall.EINVAL}
	}
	if s == "" {
		return refuse("no image is given")
	}
	u, err := url.Parse(s)
	var parse *url.Error
	switch {
	case err != nil && strings.Contains(s, "@"): // even the reason could quote a password
		return refuse("what --file names can't be read as a URL; characters such as @ and / in a name or password have to be escaped, as %40 and %2F")
	case errors.As(err, &parse):
		return refuse(fmt.Sprintf("what --file names can't be read as a URL: %v", parse.Err))
	}
	l := location{u}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return refuse(fmt.Sprintf("--file %s is no http or https URL", l))
	case u.Hostname() == "":
		return refuse(fmt.Sprintf("--file %s names no host", l))
	}
	u.Fragment, u.RawFragment = "", "" // it would not be sent, and is not part of what is asked for
	return l, nil
}

// String is fit to be shown.
func (l location) String() string {
	u := *l.url
	if u.RawQuery != "" {
		u.RawQuery = "..."
	}
	return u.Redacted()
}
