// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// facts asks an inspect plugin.
func facts(t *testing.T, p *Process, about string) []string {
	t.Helper()
	_, err := p.OpenDisk(t.Context(), wire.Disk{Location: about})
	text, ok := strings.CutPrefix(fmt.Sprint(err), "backend test: ")
	if !ok {
		t.Fatalf("OpenDisk: %v", err)
	}
	return strings.Split(text, "\n")
}

func TestPluginSeesAnAllowListedEnvironment(t *testing.T) {
	for key, value := range map[string]string{"SECRET_TOKEN": "x", "LD_PRELOAD": "", "LC_TIME": "C", "TZ": "UTC", "FLEXNBD_PLUGIN_PATH": "/x"} {
		t.Setenv(key, value)
	}
	p, _ := started(t, self("test-inspect"))
	var have []string
	for _, pair := range facts(t, p, "env") {
		key, _, _ := strings.Cut(pair, "=")
		have = append(have, key)
	}
	for _, key := range []string{"LC_TIME", "TZ", "PATH"} {
		if !slices.Contains(have, key) {
			t.Errorf("%s is not passed on", key)
		}
	}
	own := []string{"PLUGIN_MIN_PORT", "PLUGIN_MAX_PORT", "PLUGIN_PROTOCOL_VERSIONS", "PLUGIN_UNIX_SOCKET_DIR", wire.EnvLogLevel}
	for _, key := range have {
		if !passedOn[key] && !strings.HasPrefix(key, "LC_") && !slices.Contains(own, key) {
			t.Errorf("%s is passed on", key)
		}
	}
}

func TestPluginHasNoStrayDescriptor(t *testing.T) {
	// As a shell would leave one open, before the host is there.
	stray, err := unix.Open("/etc/hostname", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(stray) }()
	p, _ := started(t, self("test-inspect"))
	if flags, err := unix.FcntlInt(uintptr(stray), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the inherited descriptor has flags %#x, %v", flags, err)
	}
	known := regexp.MustCompile(`^(0=/dev/null|1=pipe:.*|2=pipe:.*|\d+=(pipe|socket):\[\d+\]|\d+=anon_inode:\[(eventpoll|eventfd|pidfd)\]|\d+=/proc/\d+/fd|\d+=/sys/fs/cgroup/.*)$`) // the last are the Go runtime's
	all := facts(t, p, "fds")
	for _, fact := range all {
		if !known.MatchString(fact) {
			t.Errorf("the plugin has %s open", fact)
		}
	}
	if !slices.Contains(all, "0=/dev/null") {
		t.Errorf("standard input is not /dev/null: %v", all)
	}
	// Nothing of the host's own, either.
	ours := map[string]bool{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(target, "socket:") {
			ours[target] = true
		}
	}
	for _, fact := range all {
		if _, target, _ := strings.Cut(fact, "="); ours[target] {
			t.Errorf("the plugin shares %s with the host", fact)
		}
	}
}

func TestPluginRunsInAGroupOfItsOwnWhereTheHostDoes(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	p, _ := started(t, self("test-inspect"))
	have := facts(t, p, "place")
	for _, want := range []string{"cwd=" + wd, fmt.Sprintf("pgid=%d", p.PID()), fmt.Sprintf("pid=%d", p.PID()), "comm=backend-test"} {
		if !slices.Contains(have, want) {
			t.Errorf("%v, want %s", have, want)
		}
	}
}

func TestChildrenOfAPluginDoNotTakeThemselvesForOne(t *testing.T) {
	p, _ := started(t, self("test-unruly"))
	for _, pair := range facts(t, p, "env of a grandchild") {
		if strings.HasPrefix(pair, wire.Handshake.MagicCookieKey+"=") || strings.HasPrefix(pair, wire.EnvDescriptorChannel+"=") {
			t.Errorf("a grandchild has %s", pair)
		}
	}
}

func TestDescriptionAndErrorsNameThePlugin(t *testing.T) {
	p, _ := started(t, self("test-memory"))
	want := wire.Description{
		Kind: wire.KindBackend, Name: "test", Version: "1.0", SDKVersion: sdk.Version,
		Options: roleOptions, DeclaresOptions: true,
	}
	if got := p.Description(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if p.Path() != "builtin" || p.PID() == os.Getpid() {
		t.Errorf("path %s, process %d", p.Path(), p.PID())
	}
	program := self("test-transport")
	program.Kind = wire.KindTransport
	q, _ := started(t, program)
	_, err := q.Transport().Listen(t.Context(), transport.Address{Addr: "x", Port: 1})
	if want := "transport test: nowhere to listen at x:1: cannot assign requested address"; fmt.Sprint(err) != want {
		t.Errorf("Listen: %v, want %s", err, want)
	}
	_, err = q.Transport().Dial(t.Context(), transport.Address{}, transport.Address{})
	if !strings.HasPrefix(fmt.Sprint(err), "transport test: nobody") || !is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial: %v", err)
	}
}

func TestWhateverAPluginSaysIsLogged(t *testing.T) {
	p, log := started(t, self("test-talker"))
	if _, err := p.OpenDisk(t.Context(), wire.Disk{}); err != nil {
		t.Fatal(err)
	}
	line := func(level, place, text string) *regexp.Regexp {
		return regexp.MustCompile(fmt.Sprintf(`(?m)^%s:%d backend-test %s: %s$`, level, p.PID(), place, text))
	}
	for _, want := range []*regexp.Regexp{
		line("W", `stderr:\d+`, "printed before the SDK was called"),
		line("I", `\S+`, "printed in Open"),
		line("W", `\S+`, "printed to os.Stderr in Open"),
		line("W", `stderr:\d+`, "written to descriptor 1"),
		line("W", `stderr:\d+`, `{"@message":1}`),
		line("W", `roles_test.go:\d+`, "logged in Open key=value"),
		line("I", `roles_test.go:\d+`, "logged in Open too"),
	} {
		await(t, want.String(), func() bool { return want.MatchString(log.String()) })
	}
}
