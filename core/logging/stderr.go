// SPDX-License-Identifier: GPL-3.0-or-later

package logging

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// maxStderrLine bounds what is kept of one line that a plugin prints, in bytes.
const maxStderrLine = 64 << 10

// RelayStderr logs what a plugin prints on its stderr to l, line by line, until
// the end of r or an error of it. Call it instead of letting go-plugin parse
// the lines: go-plugin panics, and takes the whole server with it, on a line
// such as {"@message":1}, and drops the lines of plugins that do not use hclog.
//
// A JSON object with a string "@message" is a line of hclog; its level, pairs
// and source position are kept. Anything else has the level of a prefix like
// "[INFO]" and else W, since a plugin that prints by itself is likely to
// explain a failure; its source position is "stderr" and the number of the
// line. From "panic:" or "fatal error:" on, everything is an E.
//
// It is also a decoder of outside bytes: memory is bounded by 64 KiB for a
// line, of which the rest is dropped.
func RelayStderr(l hclog.Logger, r io.Reader) error {
	in := bufio.NewReaderSize(r, maxStderrLine)
	printed := printedLines{log: l}
	for {
		line, err := readLine(in)
		if len(line) > 0 {
			printed.number++
			if !relayJSON(l, line) {
				printed.relay(string(line))
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the plugin's stderr: %w", err)
		}
	}
}

// readLine returns the next line, cut to the reader's buffer, without its
// line end. The bytes belong to the reader's buffer.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line = bytes.Clone(line)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
	}
	return bytes.TrimRight(line, "\r\n"), err
}

// relayJSON logs a line of hclog's and reports whether it was one.
func relayJSON(l hclog.Logger, line []byte) bool {
	if line[0] != '{' {
		return false
	}
	var fields map[string]any
	in := json.NewDecoder(bytes.NewReader(line))
	in.UseNumber() // 67108864 is not to become 6.7108864e+07
	if err := in.Decode(&fields); err != nil || in.More() {
		return false
	}
	msg, ok := fields["@message"].(string)
	if !ok {
		return false
	}
	word, _ := fields["@level"].(string)
	level := hclog.LevelFromString(word)
	if level == hclog.NoLevel {
		level = hclog.Warn
	}
	pairs := make([]any, 0, 2*len(fields))
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		switch key {
		case "@message", "@level", "@timestamp":
		default:
			pairs = append(pairs, key, fields[key])
		}
	}
	l.Log(level, msg, pairs...)
	return true
}

// printedLines are the lines of a plugin that are not hclog's.
type printedLines struct {
	log    hclog.Logger
	number int
	panics bool
}

func (p *printedLines) relay(line string) {
	if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
		p.panics = true
	}
	level, msg := prefixLevel(line, hclog.Warn)
	if p.panics {
		level, msg = hclog.Error, line
	}
	p.log.Log(level, msg, callerKey, fmt.Sprintf("stderr:%d", p.number))
}
