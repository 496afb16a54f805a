// SPDX-License-Identifier: Apache-2.0

package option

import (
	"maps"
	"strings"
	"testing"
	"time"
)

var all = Set{
	{Name: "name", Help: "what it is called"},
	{Name: "sync", Type: Bool, Default: "no"},
	{Name: "level", Type: Int, Default: "-3", Min: -5, Max: 9},
	{Name: "block", Type: Size, Default: "256K", Min: 4 << 10, Max: 16 << 20},
	{Name: "timeout", Type: Duration, Default: "1m30s", Min: 1, Max: int64(time.Hour)},
	{Name: "key", Type: Path, Required: true, Help: "the file that holds the key"},
	{Name: "mode", Type: Choice, Default: "fast", Choices: []string{"fast", "small"}},
}

func TestGivenAndDefaultValues(t *testing.T) {
	if err := all.Check(); err != nil {
		t.Fatal(err)
	}
	v, err := all.Parse(map[string]string{"key": "/k,=", "sync": "on", "block": "1M", "mode": "small"})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := v["name"]; ok {
		t.Error("an option without a default has a value that nobody gave")
	}
	if !v.Bool("sync") || v.Int("level") != -3 || v.Size("block") != 1<<20 || v.Duration("timeout") != 90*time.Second || v["key"] != "/k,=" || v["mode"] != "small" {
		t.Errorf("values are %v", v)
	}
	again, err := all.Parse(v)
	if err != nil || !maps.Equal(v, again) {
		t.Errorf("parsed again: %v, %v; want %v", again, err, v)
	}
}

func TestWrongValues(t *testing.T) {
	for _, c := range []struct{ name, value, says string }{
		{"nam", "x", `unknown option "nam"; it has: name, sync, level, block, timeout, key, mode`},
		{"sync", "", `option sync="": want true or false`},
		{"level", "10", "option level=10: want -5 to 9"},
		{"level", "1.5", `option level="1.5": want a whole number`},
		{"block", "1K", "option block=1K: want 4K to 16M"},
		{"block", "-1", `option block="-1": want a number of bytes, such as 4096, 64K, 1M or 2G`},
		{"block", "9223372036854775807K", "want a number of bytes"},
		{"block", "1k", "want a number of bytes"},
		{"timeout", "5", `option timeout="5": want a time, such as 300ms, 30s or 1h30m`},
		{"timeout", "2h", "option timeout=2h: want 1ns to 1h0m0s"},
		{"mode", "slow", `option mode="slow": want one of fast, small`},
		{"name", "a\nb", `option name="a\nb": want printable text`},
		{"name", strings.Repeat("x", 5000), "option name has a value of 5000 bytes, more than 4096"},
	} {
		_, err := all.Parse(map[string]string{"key": "k", c.name: c.value})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s=%.20s: %v, want %q", c.name, c.value, err, c.says)
		}
	}
	if _, err := all.Parse(nil); err == nil || err.Error() != "option key is missing: the file that holds the key; write key=VALUE" {
		t.Errorf("without what is required: %v", err)
	}
	for _, of := range []Set{all, {{Name: "key", Type: Size, Required: true, Help: "the file that holds the key"}}} {
		if _, err := of.Parse(map[string]string{"key": ""}); err == nil || err.Error() != "option key is empty: the file that holds the key; write key=VALUE" {
			t.Errorf("with what is required left empty: %v", err)
		}
	}
	if v, err := all.Parse(map[string]string{"key": "k", "name": ""}); err != nil || v["name"] != "" {
		t.Errorf("with what may be empty left empty: %v, %v", v, err)
	}
	if _, err := (Set{}).Parse(map[string]string{"a": "b"}); err == nil || err.Error() != `unknown option "a"; it has none` {
		t.Errorf("without any: %v", err)
	}
}

func TestWrongDeclarations(t *testing.T) {
	for says, o := range map[string]Option{
		"is not 1 to 64 of":               {Name: "Name"},
		"unknown type":                    {Name: "a", Type: 99},
		"not one line":                    {Name: "a", Help: "one\ntwo"},
		"is required and has a default":   {Name: "a", Required: true, Default: "x"},
		"is a choice with 0 choices":      {Name: "a", Type: Choice},
		"is a string with 1 choices":      {Name: "a", Choices: []string{"x"}},
		"which has no bounds":             {Name: "a", Type: Path, Max: 1},
		"to be at least 3 and at most 2":  {Name: "a", Type: Int, Min: 3, Max: 2},
		"choice \"\" of option":           {Name: "a", Type: Choice, Choices: []string{""}},
		"the default of option a=x: want": {Name: "a", Type: Choice, Choices: []string{"y"}, Default: "x"},
	} {
		err := Set{o}.Check()
		if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), `="x"`, "=x"), says) {
			t.Errorf("%+v: %v, want %q", o, err, says)
		}
	}
	if err := (Set{{Name: "a"}, {Name: "a"}}).Check(); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("twice the same: %v", err)
	}
	if err := make(Set, 65).Check(); err == nil || !strings.Contains(err.Error(), "more than 64") {
		t.Errorf("65 options: %v", err)
	}
}

func TestSizes(t *testing.T) {
	for n, text := range map[int64]string{0: "0", 1: "1", 512: "512", 1 << 10: "1K", 1536 << 10: "1536K", 3 << 20: "3M", 1 << 30: "1G", 1 << 40: "1T", 1 << 62: "4194304T"} {
		if got := FormatSize(n); got != text {
			t.Errorf("FormatSize(%d) = %s, want %s", n, got, text)
		}
		if got, ok := ParseSize(text); got != n || !ok {
			t.Errorf("ParseSize(%s) = %d, %v, want %d", text, got, ok, n)
		}
	}
}

func TestValueOfAnotherTypePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	Values{"a": "x"}.Int("a")
}

func FuzzParse(f *testing.F) {
	for _, o := range all {
		f.Add(o.Name, o.Default)
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		v, err := all.Parse(map[string]string{"key": "k", name: value})
		if err != nil {
			return
		}
		again, err := all.Parse(v)
		if err != nil || !maps.Equal(v, again) {
			t.Errorf("%q=%q is %v, and then %v, %v", name, value, v, again, err)
		}
	})
}
