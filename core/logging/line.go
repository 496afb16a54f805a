// SPDX-License-Identifier: GPL-3.0-or-later

package logging

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"
)

// MaxLine is the longest line in bytes, its line feed included. What is more
// is cut and says so.
const MaxLine = 16 << 10

// Keys with a meaning of their own: they shape the line's head and are not
// written as pairs.
const (
	// PluginPID gives the process that speaks, a number.
	PluginPID = "@pid"
	// caller gives the source position, "file.go:12". hclog writes it.
	callerKey = "@caller"
	// module and timestamp come with a relayed line only.
	moduleKey    = "@module"
	timestampKey = "timestamp"
)

// write makes one line of a call and hands it to the sink. Its caller is one
// of the methods of logger, or Fatal: findCaller steps over them.
func (l *logger) write(level byte, msg string, args []any) {
	h := head{level: level, pid: l.pid, thread: l.Name()}
	implied := l.takeKeys(&h, l.implied)
	args = l.takeKeys(&h, args)
	if h.file == "" {
		h.file, h.line = findCaller()
	}
	l.sink.withLine(func(b []byte) []byte {
		b = h.append(b)
		b = appendText(b, strings.TrimRight(msg, "\r\n"), keepSpaces)
		b = appendPairs(b, implied)
		b = appendPairs(b, args)
		return endLine(b)
	})
}

// head is what stands before the message.
type head struct {
	level  byte
	pid    int
	thread string
	file   string
	line   int
}

func (h *head) append(b []byte) []byte {
	b = append(b, h.level, ':')
	b = strconv.AppendInt(b, int64(h.pid), 10)
	b = append(b, ' ')
	b = appendText(b, h.thread, noSpaces)
	b = append(b, ' ')
	b = appendText(b, h.file, noSpaces)
	b = append(b, ':')
	b = strconv.AppendInt(b, int64(h.line), 10)
	return append(b, ':', ' ')
}

// takeKeys moves the keys that shape the head out of the pairs. It returns
// pairs itself where there are none, and never changes it.
func (l *logger) takeKeys(h *head, pairs []any) []any {
	var rest []any // nil until a key was taken out
	for i := 0; i+1 < len(pairs); i += 2 {
		key, _ := pairs[i].(string)
		if l.takeKey(h, key, pairs[i+1]) {
			if rest == nil {
				rest = append(make([]any, 0, len(pairs)), pairs[:i]...)
			}
			continue
		}
		if rest != nil {
			rest = append(rest, pairs[i], pairs[i+1])
		}
	}
	if rest == nil {
		rest = pairs
	} else if len(pairs)%2 == 1 {
		rest = append(rest, pairs[len(pairs)-1])
	}
	if l.relayed {
		rest = sortPairs(rest)
	}
	return rest
}

func (l *logger) takeKey(h *head, key string, value any) bool {
	switch key {
	case PluginPID:
		if pid, ok := positive(value); ok {
			h.pid = pid
		}
		return true
	case callerKey:
		if file, line, ok := splitPosition(value); ok {
			h.file, h.line = file, line
		}
		return true
	case moduleKey, timestampKey:
		return l.relayed
	}
	return false
}

// positive reads a process id, which is a number of JSON after a trip through that.
func positive(value any) (int, bool) {
	var n int64
	switch v := value.(type) {
	case int:
		n = int64(v)
	case json.Number:
		n, _ = v.Int64() // 0, which is none, if it is no whole number
	case float64:
		n = int64(v)
		if float64(n) != v {
			return 0, false
		}
	default:
		return 0, false
	}
	return int(n), n > 0 && n <= 1<<31-1
}

// splitPosition reads "dir/file.go:12". It may come from a plugin, so it is
// not believed to be well formed.
func splitPosition(value any) (file string, line int, ok bool) {
	text, _ := value.(string)
	file, number, found := cutLast(text, ":")
	if !found {
		return "", 0, false
	}
	if _, base, found := cutLast(file, "/"); found {
		file = base
	}
	line, err := strconv.Atoi(number)
	if err != nil || line < 0 || file == "" || len(file) > 255 {
		return "", 0, false
	}
	return file, line, true
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// sortPairs gives the pairs of a plugin's line, which went through a map, an
// order that does not change from line to line.
func sortPairs(pairs []any) []any {
	if len(pairs) <= 2 || len(pairs)%2 == 1 {
		return pairs
	}
	chunks := slices.Collect(slices.Chunk(pairs, 2))
	slices.SortStableFunc(chunks, func(a, b []any) int {
		return strings.Compare(fmt.Sprint(a[0]), fmt.Sprint(b[0]))
	})
	return slices.Concat(chunks...)
}

func appendPairs(b []byte, pairs []any) []byte {
	for pair := range slices.Chunk(pairs, 2) {
		if len(pair) == 1 {
			pair = []any{hclog.MissingKey, pair[0]}
		}
		b = append(b, ' ')
		key, ok := pair[0].(string)
		if !ok {
			key = fmt.Sprint(pair[0])
		}
		b = appendText(b, key, noSpaces)
		b = append(b, '=')
		b = appendValue(b, pair[1])
		if len(b) > MaxLine {
			break // endLine cuts it; do not format what nobody will see
		}
	}
	return b
}

func appendValue(b []byte, value any) []byte {
	var text string
	switch v := value.(type) {
	case string:
		text = v
	case int:
		return strconv.AppendInt(b, int64(v), 10)
	case hclog.Format:
		if len(v) > 0 {
			format, _ := v[0].(string)
			text = fmt.Sprintf(format, v[1:]...)
		}
	case hclog.Hex:
		return fmt.Appendf(b, "0x%x", int(v))
	case hclog.Octal:
		return fmt.Appendf(b, "0%o", int(v))
	case hclog.Binary:
		return fmt.Appendf(b, "0b%b", int(v))
	case hclog.Quote:
		return strconv.AppendQuote(b, string(v))
	default:
		text = fmt.Sprint(v) // also survives an Error method that panics
	}
	if needsQuotes(text) {
		return strconv.AppendQuote(b, clip(text))
	}
	return append(b, text...)
}

func needsQuotes(text string) bool {
	for _, r := range text {
		if r == ' ' || r == '"' || r == utf8.RuneError || !strconv.IsPrint(r) {
			return true
		}
	}
	return text == ""
}

// clip bounds the work that one oversized value can cause.
func clip(text string) string { return text[:min(len(text), MaxLine)] }

const (
	keepSpaces = false
	noSpaces   = true
)

// appendText appends text with everything escaped that does not print, and,
// where the text is one word of the line, spaces made underscores.
func appendText(b []byte, text string, word bool) []byte {
	text = clip(text)
	if word && text == "" {
		return append(b, '-')
	}
	for i, r := range text {
		switch {
		case r == ' ' && word:
			b = append(b, '_')
		case r == utf8.RuneError:
			_, size := utf8.DecodeRuneInString(text[i:])
			if size == 1 {
				b = append(b, `\x`...)
				b = append(b, hexDigits[text[i]>>4], hexDigits[text[i]&15])
			} else {
				b = utf8.AppendRune(b, r)
			}
		case strconv.IsPrint(r):
			b = utf8.AppendRune(b, r)
		default:
			quoted := strconv.QuoteRune(r)
			b = append(b, quoted[1:len(quoted)-1]...)
		}
	}
	return b
}

const hexDigits = "0123456789abcdef"

// endLine puts the line feed, and cuts a line that is too long, at a rune's
// border.
func endLine(b []byte) []byte {
	const mark = "...(cut)\n"
	if len(b) < MaxLine {
		return append(b, '\n')
	}
	b = b[:MaxLine-len(mark)]
	for len(b) > 0 && !utf8.RuneStart(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	if len(b) > 0 && b[len(b)-1] >= utf8.RuneSelf {
		b = b[:len(b)-1]
	}
	return append(b, mark...)
}
