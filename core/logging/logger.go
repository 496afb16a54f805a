// SPDX-License-Identifier: GPL-3.0-or-later

package logging

import (
	"io"
	"log"
	"os"
	"slices"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
)

// rootName is the THREAD of the logger at the top.
const rootName = "main"

// New returns the logger at the top, whose THREAD is "main". It writes to w,
// one Write call for each line.
func New(w io.Writer, v Verbosity) hclog.Logger {
	level := new(atomic.Int32)
	level.Store(int32(v.threshold()))
	return &logger{sink: &sink{w: w}, level: level, pid: os.Getpid()}
}

// Fatal writes an F line, whatever the threshold, and returns: the caller ends
// the program. A logger that New did not make gets an Error instead.
func Fatal(l hclog.Logger, msg string, args ...any) {
	if own, ok := l.(*logger); ok {
		own.write('F', msg, args)
		return
	}
	l.Error(msg, args...)
}

// logger is an hclog.Logger. It never changes but for the level, which all
// loggers that come from one New share.
type logger struct {
	sink    *sink
	level   *atomic.Int32
	name    string // "" at the top
	pid     int    // the process that speaks, unless PluginPID says another
	relayed bool   // speaks for a plugin: see Relay
	implied []any  // pairs from With
}

var _ hclog.Logger = (*logger)(nil)

func (l *logger) enabled(level hclog.Level) bool {
	if !debugLines && level <= hclog.Debug {
		return false
	}
	return level >= hclog.Level(l.level.Load()) && level < hclog.Off
}

// Trace writes a D line in a debug build.
func (l *logger) Trace(msg string, args ...any) {
	if debugLines && l.enabled(hclog.Trace) {
		l.write('D', msg, args)
	}
}

// Debug writes a D line in a debug build.
func (l *logger) Debug(msg string, args ...any) {
	if debugLines && l.enabled(hclog.Debug) {
		l.write('D', msg, args)
	}
}

// Info writes an I line.
func (l *logger) Info(msg string, args ...any) {
	if l.enabled(hclog.Info) {
		l.write('I', msg, args)
	}
}

// Warn writes a W line.
func (l *logger) Warn(msg string, args ...any) {
	if l.enabled(hclog.Warn) {
		l.write('W', msg, args)
	}
}

// Error writes an E line.
func (l *logger) Error(msg string, args ...any) {
	if l.enabled(hclog.Error) {
		l.write('E', msg, args)
	}
}

// Log writes a line of the given level. NoLevel counts as Info, which is
// hclog's own default.
func (l *logger) Log(level hclog.Level, msg string, args ...any) {
	if level == hclog.NoLevel {
		level = hclog.Info
	}
	if !l.enabled(level) {
		return
	}
	switch level {
	case hclog.Trace, hclog.Debug:
		l.write('D', msg, args)
	case hclog.Info:
		l.write('I', msg, args)
	case hclog.Warn:
		l.write('W', msg, args)
	default:
		l.write('E', msg, args)
	}
}

func (l *logger) IsTrace() bool { return l.enabled(hclog.Trace) }
func (l *logger) IsDebug() bool { return l.enabled(hclog.Debug) }
func (l *logger) IsInfo() bool  { return l.enabled(hclog.Info) }
func (l *logger) IsWarn() bool  { return l.enabled(hclog.Warn) }
func (l *logger) IsError() bool { return l.enabled(hclog.Error) }

// Name is the THREAD of l's lines.
func (l *logger) Name() string {
	if l.name == "" {
		return rootName
	}
	return l.name
}

// Named returns a child. A child of the one at the top is called name, a
// child of "client-3" is called "client-3.name". A relayed logger keeps its
// name, because go-plugin adds the plugin's file name to it.
func (l *logger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.ResetNamed(name)
}

// ResetNamed returns a logger of that name and no other; a relayed one keeps
// its name.
func (l *logger) ResetNamed(name string) hclog.Logger {
	if l.relayed {
		return l
	}
	child := *l
	child.name = name
	return &child
}

// With returns a logger whose lines carry these pairs too. A key given again
// replaces the earlier pair.
func (l *logger) With(args ...any) hclog.Logger {
	child := *l
	child.implied = slices.Clone(l.implied)
	for pair := range slices.Chunk(args, 2) {
		child.implied = setPair(child.implied, pair)
	}
	return &child
}

func setPair(pairs, pair []any) []any {
	if len(pair) == 1 {
		pair = []any{hclog.MissingKey, pair[0]}
	}
	if key, ok := pair[0].(string); ok {
		for i := 0; i < len(pairs); i += 2 {
			if have, ok := pairs[i].(string); ok && have == key {
				pairs[i+1] = pair[1]
				return pairs
			}
		}
	}
	return append(pairs, pair...)
}

// ImpliedArgs returns the pairs from With.
func (l *logger) ImpliedArgs() []any { return l.implied }

// SetLevel changes the level of every logger that comes from the same New.
func (l *logger) SetLevel(level hclog.Level) { l.level.Store(int32(level)) }

// GetLevel returns the lowest level that is written; Off when only F lines are.
func (l *logger) GetLevel() hclog.Level { return hclog.Level(l.level.Load()) }

// StandardLogger returns a logger of the standard library that writes here.
func (l *logger) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(opts), "", 0)
}
