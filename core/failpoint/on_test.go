// SPDX-License-Identifier: GPL-3.0-or-later

//go:build failpoints

package failpoint

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	gofail "go.etcd.io/gofail/runtime"
	"golang.org/x/sys/unix"
)

// roleVariable makes the test binary the process that has the points: it hits
// what the variable lists and says after each what became of it.
const roleVariable = "FAILPOINT_TEST_HITS"

func TestMain(m *testing.M) {
	hits := os.Getenv(roleVariable)
	if hits == "" {
		os.Exit(m.Run())
	}
	for name := range strings.SplitSeq(hits, ",") {
		err := Hit(name)
		var errno syscall.Errno
		errors.As(err, &errno)
		fmt.Printf("%s %d %v\n", name, int(errno), err)
	}
}

// process runs the test binary in a process of its own.
func process(t *testing.T, terms, log, hits string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+hits, termsVariable+"="+terms, logVariable+"="+log)
	return cmd
}

func outcome(t *testing.T, terms, hits string) string {
	t.Helper()
	out, err := process(t, terms, "", hits).Output()
	if err != nil {
		t.Fatalf("%s: %v", terms, err)
	}
	return string(out)
}

func TestPointsThatNobodySetDoNothing(t *testing.T) {
	want := "source-held 0 <nil>\nowner-synced 0 <nil>\n"
	if got := outcome(t, `source-drained=return("kill")`, "source-held,owner-synced"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestErrorsAreErrnosOrTexts(t *testing.T) {
	terms := `owner-written=return("error:ENOSPC");owner-synced=return("error:EIO");owner-renamed=return("error:out of luck")`
	want := fmt.Sprintf("owner-written %d %v\n", int(syscall.ENOSPC), syscall.ENOSPC) +
		fmt.Sprintf("owner-synced %d %v\n", int(syscall.EIO), syscall.EIO) +
		"owner-renamed 0 failpoint owner-renamed: out of luck\n"
	if got := outcome(t, terms, "owner-written,owner-synced,owner-renamed"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCountsSayWhichTimeAPointActs(t *testing.T) {
	want := "owner-synced 0 <nil>\nowner-synced 0 <nil>\n" +
		fmt.Sprintf("owner-synced %d %v\n", int(syscall.EIO), syscall.EIO) + "owner-synced 0 <nil>\n"
	got := outcome(t, `owner-synced=2*off->1*return("error:EIO")`, "owner-synced,owner-synced,owner-synced,owner-synced")
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKillEndsTheProcessAtThePoint(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	out, err := process(t, `source-renamed=return("kill")`, log, "source-held,source-renamed,source-committed").Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process ended with %v, want SIGKILL", err)
	}
	if want := "source-held 0 <nil>\n"; string(out) != want {
		t.Errorf("the process said %q, want %q", out, want)
	}
	if got, _ := os.ReadFile(log); string(got) != "source-held\nsource-renamed\n" {
		t.Errorf("the log says %q", got)
	}
}

func TestStopHoldsTheProcessAtThePointUntilItIsContinued(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	cmd := process(t, `source-held=return("stop")`, log, "source-held,source-drained")
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(cmd.Process.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("the process has not stopped: %v, status %x", err, status)
	}
	if got, _ := os.ReadFile(log); string(got) != "source-held\n" {
		t.Errorf("the process stopped having reached %q", got)
	}
	if err := cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := "source-held 0 <nil>\nsource-drained 0 <nil>\n"; out.String() != want {
		t.Errorf("the process said %q, want %q", out.String(), want)
	}
}

func TestAMistakeInTheTermsEndsTheProcess(t *testing.T) {
	out, err := process(t, `source-held=return("explode")`, "", "source-drained").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), `no action "explode"`) {
		t.Errorf("ended with %v, want status 2, and said %q", err, out)
	}
}

func TestMistakesInTheTermsAreFound(t *testing.T) {
	for terms, complaint := range map[string]string{
		`source-hold=return("kill")`:                "no point",
		`source-held=return("explode")`:             "no action",
		`source-held=return("error:ENOSUCHTHING")`:  "no errno",
		`source-held=return("error:")`:              "no action",
		`source-held=return(kill)`:                  "can't read",
		`source-held=return`:                        "can't read",
		`source-held=kill`:                          "can't read",
		`source-held=2*`:                            "can't read",
		`source-held=2*off->`:                       "can't read",
		`source-held=1%off`:                         "can't read",
		`source-held=print`:                         "can't read",
		`source-held=`:                              "can't read",
		`source-held`:                               "can't read",
		`owner-synced=off;source-held=return("no")`: "no action",
	} {
		if err := checkTerms(terms); err == nil || !strings.Contains(err.Error(), complaint) {
			t.Errorf("%s: %v, want %q", terms, err, complaint)
		}
	}
}

func TestEveryTermThatIsLetThroughIsUnderstoodByGofail(t *testing.T) {
	t.Cleanup(func() { _ = gofail.Disable("owner-synced") })
	for _, terms := range []string{
		"off", "sleep(0)", "panic", `return("error:EIO")`, `1*return("error:EIO")`, `3*off->2*return("stop")`,
		`100.0%return("error:EIO")`, `0.5%2*return("error:a (long) text, 100%")`, `2*0.5%return("kill")->sleep(3)`,
	} {
		if err := checkTerms("owner-synced=" + terms); err != nil {
			t.Errorf("%s: %v", terms, err)
		}
		if err := gofail.Enable("owner-synced", terms); err != nil {
			t.Errorf("%s: gofail: %v", terms, err)
		}
	}
}

func TestALogThatCannotBeWrittenEndsTheProcess(t *testing.T) {
	out, err := process(t, "", filepath.Join(t.TempDir(), "no", "such", "folder"), "source-held").CombinedOutput()
	if err == nil || !strings.Contains(string(out), logVariable) {
		t.Errorf("%v, %q", err, out)
	}
}

func TestAPointThatIsNotListedPanics(t *testing.T) {
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, strconv.Quote("source-hold")) {
			t.Errorf("recovered %q", got)
		}
	}()
	_ = Hit("source-hold")
}
