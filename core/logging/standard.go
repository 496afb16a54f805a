// SPDX-License-Identifier: GPL-3.0-or-later

package logging

import (
	"io"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// StandardWriter returns a writer that makes a log line of each Write, for
// libraries that only know the standard library's log package. The level is
// opts.ForceLevel, else that of a prefix like "[WARN]" when opts.InferLevels
// asks for it, else Info.
func (l *logger) StandardWriter(opts *hclog.StandardLoggerOptions) io.Writer {
	w := &standardWriter{log: l}
	if opts != nil {
		w.force = opts.ForceLevel
		w.infer = opts.InferLevels || opts.InferLevelsWithTimestamp
	}
	return w
}

type standardWriter struct {
	log   *logger
	force hclog.Level
	infer bool
}

// Write never fails.
func (w *standardWriter) Write(p []byte) (int, error) {
	msg := strings.TrimRight(string(p), " \t\r\n")
	level := hclog.Info
	if w.infer {
		level, msg = prefixLevel(msg, level)
	}
	if w.force != hclog.NoLevel {
		level = w.force
	}
	w.log.Log(level, msg)
	return len(p), nil
}

// prefixLevel finds and removes the level that many programs put before a
// message, as in "[WARN] disk full".
func prefixLevel(msg string, otherwise hclog.Level) (hclog.Level, string) {
	word, rest, found := strings.Cut(msg, "]")
	if !found || !strings.HasPrefix(word, "[") {
		return otherwise, msg
	}
	switch word[1:] {
	case "TRACE":
		return hclog.Trace, strings.TrimSpace(rest)
	case "DEBUG":
		return hclog.Debug, strings.TrimSpace(rest)
	case "INFO":
		return hclog.Info, strings.TrimSpace(rest)
	case "WARN", "WARNING":
		return hclog.Warn, strings.TrimSpace(rest)
	case "ERROR", "ERR":
		return hclog.Error, strings.TrimSpace(rest)
	}
	return otherwise, msg
}
