// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits on a request, on both sides.
const (
	MaxRequest = 64 << 10 // bytes, line feeds included
	MaxLines   = 4096     // the verb and its arguments
)

// Why a request is refused.
var (
	errNoVerb       = errors.New("no verb")
	errTooLong      = fmt.Errorf("the request has more than %d bytes", MaxRequest)
	errTooManyLines = fmt.Errorf("the request has more than %d lines", MaxLines)
	errNUL          = errors.New("the request holds a NUL byte")
)

// request is what a client asks.
type request struct {
	verb string
	args []string
}

// readRequest reads up to the empty line or the end of r. It reads no more
// than MaxRequest bytes and one.
func readRequest(r io.Reader) (request, error) {
	in := bufio.NewReader(io.LimitReader(r, MaxRequest+1))
	var lines []string
	size := 0
	for {
		line, err := in.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return request{}, fmt.Errorf("read the request: %w", err)
		}
		ended := err != nil
		if size += len(line); size > MaxRequest {
			return request{}, errTooLong
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			return newRequest(lines)
		}
		if strings.IndexByte(line, 0) >= 0 {
			return request{}, errNUL
		}
		if len(lines) == MaxLines {
			return request{}, errTooManyLines
		}
		lines = append(lines, line)
		if ended {
			return newRequest(lines)
		}
	}
}

func newRequest(lines []string) (request, error) {
	if len(lines) == 0 {
		return request{}, errNoVerb
	}
	return request{verb: lines[0], args: lines[1:]}, nil
}

// encode returns the request's bytes. What would be read as another request
// is refused: an empty word would end it early.
func (q request) encode() ([]byte, error) {
	if len(q.args)+1 > MaxLines {
		return nil, fmt.Errorf("%w: shorten the list of arguments", errTooManyLines)
	}
	var b []byte
	for _, word := range append([]string{q.verb}, q.args...) {
		switch {
		case word == "":
			return nil, fmt.Errorf("control request %q: an argument is empty", q.verb)
		case strings.ContainsAny(word, "\n\x00"):
			return nil, fmt.Errorf("control request %q: argument %q holds a line feed or a NUL", q.verb, word)
		}
		b = append(append(b, word...), '\n')
	}
	b = append(b, '\n')
	if len(b) > MaxRequest {
		return nil, fmt.Errorf("%w: shorten the list of arguments", errTooLong)
	}
	return b, nil
}
