// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"syscall"
)

// unusable is the failure of a server that does not do as the protocol says. Asking it
// again would not help.
func unusable(format string, args ...any) error {
	return &failure{errno: syscall.EIO, words: "the server's answer can't be used: " + fmt.Sprintf(format, args...)}
}

// explainStatus says what it means that there was no image in an answer, and what to do.
func explainStatus(a *http.Response) *failure {
	f := &failure{errno: syscall.EIO, passing: a.StatusCode >= 500}
	var hint string
	switch a.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		f.errno, hint = syscall.EACCES, "; give --file the right name and password, https://name:password@host/..., or a link that has not expired"
	case http.StatusNotFound, http.StatusGone:
		f.errno, hint = syscall.ENOENT, "; correct --file, or put the image there"
	default:
		if f.passing {
			hint = "; see its log"
		}
	}
	f.words = fmt.Sprintf("the server answered %d %s%s", a.StatusCode, http.StatusText(a.StatusCode), hint)
	return f
}

// explainCall says why there was no answer, or not all of it. It leaves out what
// [url.Error] adds, the URL with all its secrets.
func explainCall(err error) error {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	f := &failure{errno: syscall.EIO, passing: true, words: fmt.Sprintf("no answer from the server: %v", err)}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		f.passing = false
		f.words += "; if its certificate is right, name the file of its authority in SSL_CERT_FILE"
	}
	return f
}
