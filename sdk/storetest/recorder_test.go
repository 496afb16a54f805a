// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// record runs check before a recorder and returns it.
func record(t *testing.T, check func(testing.TB)) *recorder {
	r := newRecorder(t.Context(), "TheName")
	<-r.run(check)
	return r
}

func TestRecorderTellsHowAClauseEnded(t *testing.T) {
	for name, c := range map[string]struct {
		check     func(testing.TB)
		err, skip string
	}{
		"well":           {func(testing.TB) {}, "", ""},
		"Error":          {func(t testing.TB) { t.Error("a", 1); t.Errorf("b %d", 2) }, "a 1\nb 2", ""},
		"Fatal":          {func(t testing.TB) { t.Fatal("a", 1); t.Error("not reached") }, "a 1", ""},
		"Fatalf":         {func(t testing.TB) { t.Fatalf("a %d", 1); t.Error("not reached") }, "a 1", ""},
		"Fail":           {func(t testing.TB) { t.Fail() }, "the clause failed without saying why", ""},
		"FailNow":        {func(t testing.TB) { t.FailNow(); t.Error("not reached") }, "the clause failed without saying why", ""},
		"Skip":           {func(t testing.TB) { t.Skip("no", "loop devices"); t.Error("not reached") }, "", "no loop devices"},
		"Skipf":          {func(t testing.TB) { t.Skipf("no %s", "root"); t.Error("not reached") }, "", "no root"},
		"SkipNow":        {func(t testing.TB) { t.SkipNow(); t.Error("not reached") }, "", "the clause left itself out without saying why"},
		"in a Cleanup":   {func(t testing.TB) { t.Cleanup(func() { t.Fatal("a") }) }, "a", ""},
		"Error, Cleanup": {func(t testing.TB) { t.Cleanup(func() { t.Error("b") }); t.Fatal("a") }, "a\nb", ""},
		"Setenv":         {func(t testing.TB) { t.Setenv("X", "y"); t.Error("not reached") }, "a clause must not set the variable X of the whole process: Setenv is for go test", ""},
		"Chdir":          {func(t testing.TB) { t.Chdir("/"); t.Error("not reached") }, "a clause must not take the whole process to /: Chdir is for go test", ""},
		"Error, often": {func(t testing.TB) {
			for range 12 {
				t.Error("a")
			}
		}, strings.Repeat("a\n", 10) + "and 2 more", ""},
		"logs only":          {func(t testing.TB) { t.Log("a"); t.Logf("b"); t.Attr("c", "d"); t.Helper() }, "", ""},
		"Fatal after a Skip": {func(t testing.TB) { t.Cleanup(func() { t.Fatal("a") }); t.Skip("b") }, "a", "b"},
	} {
		r := record(t, c.check)
		err := ""
		if r.err() != nil {
			err = r.err().Error()
		}
		if err != c.err || r.reason() != c.skip {
			t.Errorf("%s: error %q, skipped %q; want %q and %q", name, err, r.reason(), c.err, c.skip)
		}
		if r.Failed() != (c.err != "") || r.Skipped() != (c.skip != "") {
			t.Errorf("%s: Failed %v, Skipped %v", name, r.Failed(), r.Skipped())
		}
	}
}

func TestRecorderMakesAPanicAnError(t *testing.T) {
	cleaned := false
	r := record(t, func(t testing.TB) {
		t.Cleanup(func() { cleaned = true })
		t.Cleanup(func() { panic("the second") })
		panic("the first")
	})
	for _, want := range []string{"panic: ", "the first", "recorder_test.go", "the second"} {
		if r.err() == nil || !strings.Contains(r.err().Error(), want) {
			t.Errorf("the error %v does not have %q", r.err(), want)
		}
	}
	if !cleaned {
		t.Error("a Cleanup was left out after another one's panic")
	}
}

func TestRecorderCleansUpInReverseAfterItsContext(t *testing.T) {
	var order []string
	var dir string
	record(t, func(t testing.TB) {
		dir = t.TempDir()
		if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		if ctx.Err() != nil || t.Name() != "TheName" {
			t.Error("the context has ended, or the name is wrong")
		}
		t.Cleanup(func() { order = append(order, "first") })
		t.Cleanup(func() {
			order = append(order, "second")
			if !errors.Is(context.Cause(ctx), context.Canceled) || errors.Is(context.Cause(ctx), ErrGivenUp) {
				t.Errorf("the context's cause is %v", context.Cause(ctx))
			}
			t.Cleanup(func() { order = append(order, "added") })
			t.FailNow()
		})
	})
	if want := []string{"second", "added", "first"}; !slices.Equal(order, want) {
		t.Errorf("cleaned up in the order %v, want %v", order, want)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there (%v)", err)
	}
}

// TestRecorderHasEveryMethod: one that is only promoted from the nil TB would panic
// in an author's factory.
func TestRecorderHasEveryMethod(t *testing.T) {
	tb := reflect.TypeFor[testing.TB]()
	for i := range tb.NumMethod() {
		m := tb.Method(i)
		if !m.IsExported() {
			continue
		}
		r := record(t, func(t testing.TB) {
			var arguments []reflect.Value
			for j := range m.Type.NumIn() {
				if j == m.Type.NumIn()-1 && m.Type.IsVariadic() {
					break
				}
				arguments = append(arguments, reflect.Zero(m.Type.In(j)))
			}
			if m.Name == "Cleanup" {
				arguments = []reflect.Value{reflect.ValueOf(func() {})}
			}
			reflect.ValueOf(t).MethodByName(m.Name).Call(arguments)
		})
		if err := r.err(); err != nil && strings.Contains(err.Error(), "panic") {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
}
