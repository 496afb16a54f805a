// SPDX-License-Identifier: GPL-3.0-or-later

package logging_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/logging"
)

// lineAt is the head of a line of this file.
func lineAt(level, thread string, line int) string {
	return fmt.Sprintf("%s:%d %s logging_test.go:%d: ", level, os.Getpid(), thread, line)
}

// here is the number of the line that calls it.
func here() int {
	_, _, line, _ := runtime.Caller(1)
	return line
}

func TestLineHasTheManualsForm(t *testing.T) {
	var out bytes.Buffer
	logging.New(&out, logging.Verbose).Named("client-3").Info("connected", "from", "::1")
	form := regexp.MustCompile(`^I:[0-9]+ client-3 logging_test\.go:[0-9]+: connected from=::1\n$`)
	if !form.MatchString(out.String()) {
		t.Errorf("the line is %q", out.String())
	}
}

func TestSourcePositionIsTheSpeakers(t *testing.T) {
	var out bytes.Buffer
	l := logging.New(&out, logging.Verbose)
	check := func(name string, line int, speak func()) {
		t.Helper()
		out.Reset()
		speak()
		if !strings.Contains(out.String(), fmt.Sprintf(" logging_test.go:%d: ", line)) {
			t.Errorf("%s: want line %d, have %q", name, line, out.String())
		}
	}
	check("Info", here(), func() { l.Info("x") })
	check("Warn", here(), func() { l.Warn("x") })
	check("Error", here(), func() { l.Error("x") })
	check("Log", here(), func() { l.Log(hclog.Warn, "x") })
	check("Named", here(), func() { l.Named("a").With("k", 1).Info("x") })
	check("Fatal", here(), func() { logging.Fatal(l, "x") })
	check("standard library", here(), func() { l.StandardLogger(nil).Printf("x") })
	std := hclog.FromStandardLogger(l.StandardLogger(nil), &hclog.LoggerOptions{DisableTime: true})
	check("through hclog", here(), func() { std.Info("x") })
}

func TestLevelsAndVerbosity(t *testing.T) {
	levels := []struct {
		letter string
		speak  func(hclog.Logger)
	}{
		{"D", func(l hclog.Logger) { l.Trace("x") }},
		{"D", func(l hclog.Logger) { l.Debug("x") }},
		{"I", func(l hclog.Logger) { l.Info("x") }},
		{"W", func(l hclog.Logger) { l.Warn("x") }},
		{"E", func(l hclog.Logger) { l.Error("x") }},
		{"F", func(l hclog.Logger) { logging.Fatal(l, "x") }},
		{"D", func(l hclog.Logger) { l.Log(hclog.Debug, "x") }},
		{"I", func(l hclog.Logger) { l.Log(hclog.NoLevel, "x") }},
		{"E", func(l hclog.Logger) { l.Log(hclog.Error, "x") }},
		{"", func(l hclog.Logger) { l.Log(hclog.Off, "x") }},
	}
	for _, v := range []struct {
		name    string
		v       logging.Verbosity
		letters string
	}{
		{"quiet", logging.Quiet, "F"},
		{"default", logging.Default, "WEF"},
		{"verbose", logging.Verbose, verboseLetters},
	} {
		for i, level := range levels {
			var out bytes.Buffer
			level.speak(logging.New(&out, v.v))
			want := level.letter != "" && strings.Contains(v.letters, level.letter)
			if want != strings.HasPrefix(out.String(), level.letter+":") || (!want && out.Len() > 0) {
				t.Errorf("%s, case %d (%s): written: %q", v.name, i, level.letter, out.String())
			}
		}
	}
}

func TestIsLevelAgreesWithVerbosity(t *testing.T) {
	var out bytes.Buffer
	verbose := logging.New(&out, logging.Verbose)
	if !verbose.IsInfo() || verbose.IsDebug() != debugBuild || verbose.IsTrace() != debugBuild {
		t.Errorf("verbose: info %t debug %t trace %t", verbose.IsInfo(), verbose.IsDebug(), verbose.IsTrace())
	}
	usual := logging.New(&out, logging.Default)
	if usual.IsInfo() || !usual.IsWarn() || !usual.IsError() {
		t.Errorf("default: info %t warn %t error %t", usual.IsInfo(), usual.IsWarn(), usual.IsError())
	}
	if quiet := logging.New(&out, logging.Quiet); quiet.IsError() || quiet.GetLevel() != hclog.Off {
		t.Errorf("quiet: error %t, level %v", quiet.IsError(), quiet.GetLevel())
	}
}

func TestSetLevelReachesChildren(t *testing.T) {
	var out bytes.Buffer
	l := logging.New(&out, logging.Default)
	child := l.Named("control")
	l.SetLevel(hclog.Info)
	child.Info("x")
	if out.Len() == 0 {
		t.Error("the child kept its old level")
	}
}

func TestNames(t *testing.T) {
	l := logging.New(&bytes.Buffer{}, logging.Default)
	for _, c := range []struct{ have, want string }{
		{l.Name(), "main"},
		{l.Named("client-3").Name(), "client-3"},
		{l.Named("client-3").Named("handshake").Name(), "client-3.handshake"},
		{l.Named("client-3").ResetNamed("control").Name(), "control"},
		{logging.Relay(l, "backend-file", 0).Named("flexnbd-backend-file").Name(), "backend-file"},
		{logging.Relay(l, "backend-file", 0).ResetNamed("x").Name(), "backend-file"},
	} {
		if c.have != c.want {
			t.Errorf("name %q, want %q", c.have, c.want)
		}
	}
}

type panics struct{}

func (*panics) Error() string { panic("no") }

func TestPairs(t *testing.T) {
	var nobody *panics
	var out bytes.Buffer
	l := logging.New(&out, logging.Verbose)
	for _, c := range []struct {
		args []any
		want string
	}{
		{nil, ""},
		{[]any{"k", "v", "n", 3}, " k=v n=3"},
		{[]any{"k", "two words"}, ` k="two words"`},
		{[]any{"k", ""}, ` k=""`},
		{[]any{"k", `a"b`}, ` k="a\"b"`},
		{[]any{"k", "a\nF:1 main x.go:1: no"}, ` k="a\nF:1 main x.go:1: no"`},
		{[]any{"k", "\xff"}, ` k="\xff"`},
		{[]any{"k", "ü"}, " k=ü"},
		{[]any{"k", "\u202e"}, ` k="\u202e"`},
		{[]any{"err", errors.New("open x: no space")}, ` err="open x: no space"`},
		{[]any{"err", nil}, " err=<nil>"},
		{[]any{"k", nobody}, " k=<nil>"},
		{[]any{"k", &panics{}}, ` k="%!v(PANIC=Error method: no)"`},
		{[]any{"k"}, " EXTRA_VALUE_AT_END=k"},
		{[]any{7, true}, " 7=true"},
		{[]any{"a key", 1, "b\nc", 2}, ` a_key=1 b\nc=2`},
		{[]any{"k", hclog.Fmt("%d of %d", 1, 2)}, ` k="1 of 2"`},
		{[]any{"k", hclog.Format{}}, ` k=""`},
		{[]any{"k", hclog.Hex(255), "o", hclog.Octal(8), "b", hclog.Binary(2)}, " k=0xff o=010 b=0b10"},
		{[]any{"k", hclog.Quote("x")}, ` k="x"`},
		{[]any{"timestamp", "noon"}, " timestamp=noon"},
	} {
		out.Reset()
		l.Info("m", c.args...)
		_, have, _ := strings.Cut(strings.TrimSuffix(out.String(), "\n"), ": m")
		if have != c.want {
			t.Errorf("%v: have %q, want %q", c.args, have, c.want)
		}
	}
}

func TestWithAddsAndReplaces(t *testing.T) {
	var out bytes.Buffer
	l := logging.New(&out, logging.Verbose)
	one := l.With("a", 1, "b", 2)
	two := one.With("a", 3, "c", 4)
	one.Info("m")
	two.Info("m", "d", 5)
	l.Info("m")
	have := regexp.MustCompile(`(?m)^.*: m`).ReplaceAllString(out.String(), "m")
	if want := "m a=1 b=2\nm a=3 b=2 c=4 d=5\nm\n"; have != want {
		t.Errorf("have %q, want %q", have, want)
	}
}

func TestOneCallIsOneLine(t *testing.T) {
	var out bytes.Buffer
	l := logging.New(&out, logging.Verbose)
	line := here() + 1
	l.Named("evil\nF:1 main").Info("a\nF:1 main x.go:1: b\r\x1b[31m\u2028\xc3 \\n done\n")
	want := lineAt("I", `evil\nF:1_main`, line) + `a\nF:1 main x.go:1: b\r\x1b[31m\u2028\xc3 \n done` + "\n"
	if out.String() != want {
		t.Errorf("have %q\nwant %q", out.String(), want)
	}
}

func TestOverlongLineIsCut(t *testing.T) {
	for _, text := range []string{strings.Repeat("a", 1<<20), strings.Repeat("ü", 1<<19)} {
		for _, speak := range []func(hclog.Logger){
			func(l hclog.Logger) { l.Error(text) },
			func(l hclog.Logger) { l.Error("m", "k", text) },
			func(l hclog.Logger) { l.Error("m", "k", text+" ", "j", 1) },
			func(l hclog.Logger) { l.Named(text).Error("m") },
		} {
			var out bytes.Buffer
			speak(logging.New(&out, logging.Default))
			have := out.String()
			if len(have) > logging.MaxLine || !strings.HasSuffix(have, "...(cut)\n") || strings.ContainsRune(have, '\ufffd') {
				t.Errorf("%d bytes, ends %q", len(have), have[max(0, len(have)-20):])
			}
		}
	}
}

// writes keeps each Write apart.
type writes struct {
	mu  sync.Mutex
	all []string
}

func (w *writes) Write(p []byte) (int, error) {
	if !w.mu.TryLock() {
		panic("two Writes at once")
	}
	defer w.mu.Unlock()
	w.all = append(w.all, string(p))
	runtime.Gosched() // be slow, so that an unlocked Write would show
	return len(p), nil
}

func TestLinesOfManyGoroutinesStayWhole(t *testing.T) {
	const goroutines, each = 16, 200
	var out writes
	l := logging.New(&out, logging.Verbose)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			own := l.Named(fmt.Sprint("client-", g))
			for i := range each {
				own.Info("request", "n", i, "pad", strings.Repeat("x", i))
			}
		})
	}
	wg.Wait()
	if len(out.all) != goroutines*each {
		t.Fatalf("%d writes, want %d", len(out.all), goroutines*each)
	}
	next := map[string]int{}
	form := regexp.MustCompile(`^I:\d+ (client-\d+) logging_test\.go:\d+: request n=(\d+) pad=(""|x*)\n$`)
	for _, line := range out.all {
		m := form.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("a damaged line: %q", line)
		}
		if m[2] != fmt.Sprint(next[m[1]]) {
			t.Fatalf("%s: line %s, want %d", m[1], m[2], next[m[1]])
		}
		next[m[1]]++
	}
}

func TestForeignLoggerGetsAnErrorForFatal(t *testing.T) {
	var out bytes.Buffer
	logging.Fatal(hclog.New(&hclog.LoggerOptions{Output: &out}), "no disk")
	if !strings.Contains(out.String(), "[ERROR] no disk") {
		t.Errorf("have %q", out.String())
	}
}

func TestStandardLoggerLevels(t *testing.T) {
	var out bytes.Buffer
	l := logging.New(&out, logging.Verbose)
	l.StandardLogger(&hclog.StandardLoggerOptions{InferLevels: true}).Print("[WARN] low")
	l.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Error}).Print("[INFO] high")
	l.StandardLogger(nil).Print("[WARN] as it is")
	have := regexp.MustCompile(`(?m)^(.):.*\.go:\d+`).ReplaceAllString(out.String(), "$1")
	if want := "W: low\nE: [INFO] high\nI: [WARN] as it is\n"; have != want {
		t.Errorf("have %q, want %q", have, want)
	}
}

func TestLevelThatIsOffCostsNoAllocation(t *testing.T) {
	l := logging.New(&bytes.Buffer{}, logging.Default)
	if n := testing.AllocsPerRun(100, func() { l.Info("request") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLine(b *testing.B) {
	l := logging.New(&nowhere{}, logging.Verbose).Named("client-3")
	b.ReportAllocs()
	for b.Loop() {
		l.Info("connected", "from", "::1", "n", 3)
	}
}

func BenchmarkLineOff(b *testing.B) {
	l := logging.New(&nowhere{}, logging.Default).Named("client-3")
	b.ReportAllocs()
	for b.Loop() {
		l.Info("connected", "from", "::1")
	}
}

type nowhere struct{}

func (*nowhere) Write(p []byte) (int, error) { return len(p), nil }
