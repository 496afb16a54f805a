// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/logging"
	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/option"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// roles are what this binary runs as when its name is one of these.
var roles = map[string]func(){
	"test-memory":    func() { serveBackend(openMemory) },
	"test-talker":    talk,
	"test-inspect":   func() { serveBackend(inspect) },
	"test-unruly":    func() { serveBackend(openUnruly) },
	"test-transport": func() { sdk.ServeTransport(sdk.Transport{Name: "test", Transport: nowhere{}}) },
	"test-stopped":   func() { shakeHands(func() { _ = unix.Kill(os.Getpid(), unix.SIGSTOP) }) },
	"test-dropout":   func() { shakeHands(func() { fmt.Fprintln(os.Stderr, "no more"); os.Exit(4) }) },
	"test-host":      beHost,
	"test-hostile":   func() { serveBackend(openHostile) },
	"test-intruder":  func() { sdk.ServeTransport(sdk.Transport{Name: "test", Transport: intruder{}}) },
}

// roleOptions are those of all the roles that are backends.
var roleOptions = option.Set{{Name: "script"}, {Name: "lease"}, {Name: "survives"}, {Name: "replayable"}, {Name: "starts"}, {Name: "pidfile"}}

func serveBackend(open func(context.Context, sdk.Disk) (store.Store, error)) {
	sdk.ServeBackend(sdk.Backend{Name: "test", Version: "1.0", Options: roleOptions, Open: open})
}

// openMemory opens a disk of as many bytes as its location says.
func openMemory(_ context.Context, disk sdk.Disk) (store.Store, error) {
	size, err := strconv.ParseInt(disk.Location, 10, 64)
	if err != nil {
		return nil, err
	}
	return memstore.New(size), nil
}

// talk says things in every way there is.
func talk() {
	fmt.Println("printed before the SDK was called")
	serveBackend(func(context.Context, sdk.Disk) (store.Store, error) {
		fmt.Println("printed in Open")
		fmt.Fprintln(os.Stderr, "printed to os.Stderr in Open")
		_, _ = unix.Write(1, []byte("written to descriptor 1\n"))
		_, _ = unix.Write(2, []byte(`{"@message":1}`+"\n"))
		sdk.Logger().Warn("logged in Open", "key", "value")
		sdk.Logger().Info("logged in Open too")
		return memstore.New(0), nil
	})
}

// inspect answers with what a plugin finds about itself, in an error.
func inspect(_ context.Context, disk sdk.Disk) (store.Store, error) {
	var facts []string
	switch disk.Location {
	case "env":
		facts = os.Environ()
	case "fds":
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
				facts = append(facts, e.Name()+"="+target)
			}
		}
	case "place":
		wd, _ := os.Getwd()
		comm, _ := os.ReadFile("/proc/self/comm")
		facts = []string{
			"cwd=" + wd, fmt.Sprintf("pgid=%d", unix.Getpgrp()), fmt.Sprintf("pid=%d", os.Getpid()),
			"comm=" + strings.TrimSpace(string(comm)),
		}
	}
	slices.Sort(facts)
	return nil, errors.New(strings.Join(facts, "\n"))
}

// unruly is a disk whose writes do what the location says.
type unruly struct {
	store.Store
	write func()
}

func (u unruly) WriteAt(context.Context, []byte, int64, store.Flags) error {
	u.write()
	return nil
}

func openUnruly(_ context.Context, disk sdk.Disk) (store.Store, error) {
	u := unruly{Store: memstore.New(4096)}
	switch disk.Location {
	case "crash":
		u.write = func() { os.Exit(7) }
	case "panic":
		u.write = func() { panic("on purpose") }
	case "busy":
		u.write = func() {
			fmt.Fprintln(os.Stderr, "busy")
			for x := 1; x > 0; x ^= 2 { // keeps a processor to itself
			}
		}
	case "grandchild", "daemon":
		// The grandchild has standard output and error of this process.
		cmd := exec.Command("/bin/sleep", "1000")
		cmd.Stdout, cmd.Stderr = os.NewFile(1, ""), os.NewFile(2, "")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: disk.Location == "daemon"}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		if err := os.WriteFile(disk.Options["pidfile"], []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
			return nil, err
		}
		u.write = func() { os.Exit(7) }
	case "env of a grandchild":
		out, err := exec.Command("/usr/bin/env").Output()
		return nil, errors.Join(err, errors.New(string(out)))
	default:
		return nil, fmt.Errorf("unknown location %q", disk.Location)
	}
	return u, nil
}

// nowhere is a transport that reaches nobody.
type nowhere struct{}

func (nowhere) Listen(_ context.Context, addr transport.Address) (transport.Listener, error) {
	return nil, fmt.Errorf("nowhere to listen at %s: %w", addr, syscall.EADDRNOTAVAIL)
}

func (nowhere) Dial(_ context.Context, addr, _ transport.Address) (transport.Conn, error) {
	return transport.Conn{}, fmt.Errorf("nobody at %s: %w", addr, syscall.ECONNREFUSED)
}

// shakeHands prints a handshake on descriptor 9, where a shell has put standard
// output, out of reach of the SDK that this binary has in it, and then does what
// no plugin should.
func shakeHands(then func()) {
	l, err := net.Listen("unix", filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "plugin1"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(5)
	}
	_, _ = unix.Write(9, []byte("1|1|unix|"+l.Addr().String()+"|grpc\n"))
	then()
	time.Sleep(time.Hour) // continued by somebody
}

// beHost starts a plugin, gets it to work, tells its number, and waits for its
// end by SIGKILL.
func beHost() {
	h, err := New(logging.New(os.Stderr, logging.Verbose))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(5)
	}
	p, err := h.Start(context.Background(), self("test-unruly"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(5)
	}
	location := os.Args[1]
	if location != "idle" {
		s, err := p.OpenDisk(context.Background(), wire.Disk{Location: location})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(5)
		}
		go func() { _ = s.WriteAt(context.Background(), []byte("x"), 0, 0) }()
	}
	fmt.Println(p.PID())
	time.Sleep(time.Hour)
}
