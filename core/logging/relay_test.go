// SPDX-License-Identifier: GPL-3.0-or-later

package logging_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/logging"
)

func TestRelayedLineKeepsPositionAndPID(t *testing.T) {
	var out bytes.Buffer
	// As go-plugin calls it: a Named child, with the pairs of the JSON line.
	l := logging.Relay(logging.New(&out, logging.Verbose), "backend-file", 99).Named("flexnbd")
	for _, c := range []struct {
		args []any
		want string
	}{
		{[]any{"@caller", "fdstore/store.go:31", "timestamp", "now", "@module", "m", "z", 1, "a", 2},
			"99 backend-file store.go:31: m a=2 z=1"},
		{[]any{"@caller", "store.go:31", "@pid", float64(4711)}, "4711 backend-file store.go:31: m"},
		{[]any{"@caller", "a b\nc.go:31"}, `99 backend-file a_b\nc.go:31: m`},
		{[]any{"@caller", "store.go:31", "@pid", -1}, "99 backend-file store.go:31: m"},
		{[]any{"@caller", "store.go:31", "@pid", 1.5}, "99 backend-file store.go:31: m"},
		{[]any{"@caller", "store.go:31", "@pid", "x"}, "99 backend-file store.go:31: m"},
	} {
		out.Reset()
		l.Warn("m", c.args...)
		if want := "W:" + c.want + "\n"; out.String() != want {
			t.Errorf("%v:\nhave %q\nwant %q", c.args, out.String(), want)
		}
	}
}

func TestRelayWithoutPositionOrPIDIsOurOwnLine(t *testing.T) {
	var out bytes.Buffer
	l := logging.Relay(logging.New(&out, logging.Verbose), "backend-file", 0)
	for _, caller := range []any{"nonsense", "x.go:-1", ":5", "a/b/:5", "x.go:", 5, strings.Repeat("x", 300) + ":1"} {
		out.Reset()
		line := here() + 1
		l.Info("m", "@caller", caller)
		want := fmt.Sprintf("I:%d backend-file relay_test.go:%d: m\n", os.Getpid(), line)
		if out.String() != want {
			t.Errorf("@caller %v:\nhave %q\nwant %q", caller, out.String(), want)
		}
	}
}

func TestPluginPIDIsNoPairOnAnyLogger(t *testing.T) {
	var out bytes.Buffer
	logging.New(&out, logging.Verbose).With(logging.PluginPID, 77, "k", 1).Info("m")
	if have := out.String(); !strings.HasPrefix(have, "I:77 main ") || !strings.HasSuffix(have, ": m k=1\n") {
		t.Errorf("have %q", have)
	}
}

func TestRelayOfAForeignLogger(t *testing.T) {
	var out bytes.Buffer
	logging.Relay(hclog.New(&hclog.LoggerOptions{Output: &out, DisableTime: true}), "backend-file", 7).Info("m")
	if have := out.String(); have != "[INFO]  backend-file: m: @pid=7\n" {
		t.Errorf("have %q", have)
	}
}

// relay runs RelayStderr on text for a plugin with process id 99.
func relay(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	l := logging.Relay(logging.New(&out, logging.Verbose), "plugin", 99)
	if err := logging.RelayStderr(l, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestStderrLinesAreRelayed(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"hclog", `{"@level":"error","@message":"no space","@caller":"a/store.go:3","@timestamp":"x","b":"2 3","a":1}`,
			"E:99 plugin store.go:3: no space a=1 b=\"2 3\"\n"},
		{"level unknown", `{"@level":"loud","@message":"m","@caller":"s.go:3"}`, "W:99 plugin s.go:3: m\n"},
		{"fields of other types", `{"@level":5,"@message":"m","@caller":"s.go:3","@timestamp":{},"@module":[]}`,
			"W:99 plugin s.go:3: m\n"},
		{"message of another type", `{"@message":1}`, "W:99 plugin stderr:1: {\"@message\":1}\n"},
		{"other JSON", `{"a":1}`, "W:99 plugin stderr:1: {\"a\":1}\n"},
		{"broken JSON", `{"@message":"x"`, "W:99 plugin stderr:1: {\"@message\":\"x\"\n"},
		{"plain", "one\r\n\ntwo", "W:99 plugin stderr:1: one\nW:99 plugin stderr:2: two\n"},
		{"prefix", "[INFO] one\n[ERROR] two\n[X] three\n",
			"I:99 plugin stderr:1: one\nE:99 plugin stderr:2: two\nW:99 plugin stderr:3: [X] three\n"},
		{"panic", "panic: no\n\ngoroutine 1 [running]:\n",
			"E:99 plugin stderr:1: panic: no\nE:99 plugin stderr:2: goroutine 1 [running]:\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if have := relay(t, c.text); have != c.want {
				t.Errorf("have %q\nwant %q", have, c.want)
			}
		})
	}
}

func TestStderrLineWithoutEndIsBounded(t *testing.T) {
	have := relay(t, strings.Repeat("x", 1<<20)+"\nnext\n")
	lines := strings.SplitAfter(have, "\n")
	if len(lines) != 3 || len(lines[0]) > logging.MaxLine || lines[1] != "W:99 plugin stderr:2: next\n" {
		t.Errorf("%d lines, the first of %d bytes, then %q", len(lines), len(lines[0]), lines[1:])
	}
}

func TestStderrReadErrorIsReturned(t *testing.T) {
	broken := errors.New("broken pipe")
	err := logging.RelayStderr(hclog.NewNullLogger(), iotest.ErrReader(broken))
	if !errors.Is(err, broken) {
		t.Errorf("have %v", err)
	}
}

// TestHclogPluginLineComesThrough has the real hclog write what a plugin
// writes.
func TestHclogPluginLineComesThrough(t *testing.T) {
	var stderr bytes.Buffer
	plugin := hclog.New(&hclog.LoggerOptions{
		Name: "backend", Output: &stderr, JSONFormat: true, IncludeLocation: true,
	}).With(logging.PluginPID, 4711)
	line := here() + 1
	plugin.Warn("slow disk", "size", 67108864, "ms", 20)
	want := fmt.Sprintf("W:4711 plugin relay_test.go:%d: slow disk ms=20 size=67108864\n", line)
	if have := relay(t, stderr.String()); have != want {
		t.Errorf("have %q\nwant %q", have, want)
	}
}

func FuzzRelayStderr(f *testing.F) {
	f.Add("panic: x\n\ty\n")
	f.Add(`{"@level":"info","@message":"m\n","@caller":"a:1","@pid":1e300,"k":{"x":[1]}}` + "\n[WARN] w\r\n")
	f.Add("\xff\x00\u2028\n{}\n{\"@message\":{}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		have := relay(t, text)
		if lines := strings.Count(have, "\n"); lines > strings.Count(text, "\n")+1 {
			t.Errorf("%d lines made of %q", lines, text)
		}
		for line := range strings.Lines(have) {
			if len(line) > logging.MaxLine || !strings.Contains("DIWEF", line[:1]) || line[1] != ':' {
				t.Errorf("line %q", line)
			}
			for _, r := range strings.TrimSuffix(line, "\n") {
				if r < ' ' || r == 0x7f {
					t.Errorf("control character in %q", line)
				}
			}
		}
	})
}
