// SPDX-License-Identifier: Apache-2.0

package sdk

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/flexnbd/flexnbd/sdk/option"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Version is the SDK's own version. Hosts show it beside the plugin's.
const Version = "0.1.0"

// Disk says which disk a backend is to open.
type Disk = wire.Disk

// Backend describes a backend plugin.
type Backend struct {
	// Name is what operators write after --backend: 1 to 64 of a-z, 0-9, "-".
	// The binary is called flexnbd-backend-NAME.
	Name string
	// Version is the plugin's own, at most 64 bytes.
	Version string
	// About is for people.
	About About
	// Options are what operators may give behind the name, --backend NAME,key=value.
	// Any other is refused before Open is called.
	Options option.Set
	// Open opens a disk. It must not return a store that it cannot serve: a
	// wrong location is an error here, worded for the operator. The store outlives ctx.
	//
	// ctx ends when flexnbd waits no longer: 60 s after it began to start, or, in place
	// of a process that has crashed, 30 s after it began to start this one. Clients
	// wait meanwhile. An Open that fails there is tried again, in another process, for a
	// minute.
	//
	// Disk.Lease, if it is not nil, belongs to the store from a successful Open on. When
	// Open returns an error, the SDK closes it; that Open, or what it gave the lease to,
	// has closed it already does no harm.
	Open func(ctx context.Context, disk Disk) (store.Store, error)
}

// About says who made a plugin. Each field is one line of at most 200 bytes, or empty.
type About struct {
	Vendor   string // a person, or a company
	Homepage string // where to read more
	License  string // an SPDX expression: Apache-2.0
}

// Transport describes a transport plugin.
type Transport struct {
	// Name is what operators write after --transport; as for a [Backend]. The
	// binary is called flexnbd-transport-NAME.
	Name string
	// Version is the plugin's own, at most 64 bytes.
	Version string
	// About is for people.
	About About
	// Transport does the work.
	Transport transport.Transport
}

// ServeBackend serves the backend to the host that started this process. It
// does not return.
func ServeBackend(b Backend) {
	d := describe(wire.KindBackend, b.Name, b.Version, b.About)
	d.Options = b.Options
	serve(wire.Served{Description: d, Open: b.Open})
}

// ServeTransport serves the transport to the host that started this process. It
// does not return.
func ServeTransport(t Transport) {
	serve(wire.Served{Description: describe(wire.KindTransport, t.Name, t.Version, t.About), Transport: t.Transport})
}

func describe(kind wire.Kind, name, version string, about About) wire.Description {
	return wire.Description{
		Kind: kind, Name: name, Version: version, SDKVersion: Version,
		Vendor: about.Vendor, Homepage: about.Homepage, License: about.License,
		DeclaresOptions: true,
	}
}

func serve(s wire.Served) {
	if err := s.Description.Check(); err != nil {
		fail(fmt.Errorf("this plugin describes itself wrongly: %w", err))
	}
	if s.Open == nil && s.Transport == nil {
		fail(fmt.Errorf("this plugin, %s %q, has nothing to serve: set Backend.Open or Transport.Transport", s.Description.Kind, s.Description.Name))
	}
	var err error
	if startedByHost() {
		s.Descriptors, err = startAsChild(s.Description)
	} else {
		s.Descriptors, err = startByHand(s.Description)
	}
	if err != nil {
		fail(err)
	}
	if s.Descriptors != nil {
		go exitWithHost(s.Descriptors)
	}
	config := wire.ServeConfig(s)
	config.Logger = newLogger("go-plugin")
	config.GRPCServer = func(opts []grpc.ServerOption) *grpc.Server {
		forgetHandshake() // go-plugin has read it by now
		return wire.NewServer(opts)
	}
	plugin.Serve(config)
	os.Exit(0)
}

// startAsChild prepares a process that a host has started. go-plugin prints its
// handshake line to os.Stdout, and then puts a pipe to the host's log there.
func startAsChild(d wire.Description) (*wire.DescriptorChannel, error) {
	if stdout.err != nil {
		return nil, stdout.err
	}
	nameProcess(d.Kind.String() + "-" + d.Name)
	channel, err := openDescriptorChannel()
	if err != nil {
		return nil, err
	}
	if channel != nil {
		outliveSignals()
	}
	os.Stdout = stdout.file
	return channel, nil
}

// startByHand answers a person, or prepares a process under a debugger.
func startByHand(d wire.Description) (*wire.DescriptorChannel, error) {
	debug, err := byHand(d, os.Args[1:], os.Stdout)
	if err != nil {
		return nil, err
	}
	if !debug {
		os.Exit(0)
	}
	channel, err := awaitHost(d, os.Stdout)
	if err != nil {
		return nil, fmt.Errorf("waiting for a flexnbd: %w", err)
	}
	if err := os.Setenv(wire.Handshake.MagicCookieKey, wire.Handshake.MagicCookieValue); err != nil { // for go-plugin
		return nil, err
	}
	return wire.NewDescriptorChannel(channel)
}

// startedByHost says whether a flexnbd host started this process as a plugin.
func startedByHost() bool {
	return os.Getenv(wire.Handshake.MagicCookieKey) == wire.Handshake.MagicCookieValue
}

// forgetHandshake keeps processes that the plugin starts from taking themselves
// for plugins.
func forgetHandshake() {
	_ = os.Unsetenv(wire.Handshake.MagicCookieKey)
	_ = os.Unsetenv(wire.EnvDescriptorChannel)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// stdout is the real standard output of a process that a host started. It is
// put aside before main runs, so that a plugin may print before it calls
// ServeBackend.
var stdout struct {
	file *os.File
	err  error
}

func init() {
	if startedByHost() {
		stdout.file, stdout.err = guardStdout()
	}
}

// guardStdout keeps the real standard output for the handshake and sends
// everything that the plugin or its libraries print there, from Go or from C,
// to standard error: one stray line would break the start.
func guardStdout() (*os.File, error) {
	fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("standard output is not open; a plugin is started by flexnbd: %w", err)
	}
	if err := unix.Dup3(2, 1, 0); err != nil {
		return nil, fmt.Errorf("cannot redirect standard output: %w", err)
	}
	return os.NewFile(uintptr(fd), "stdout"), nil
}

// openDescriptorChannel takes over the inherited end. A process that a debugger
// started has none, which is no error: only sockets cannot be passed then.
func openDescriptorChannel() (*wire.DescriptorChannel, error) {
	value := os.Getenv(wire.EnvDescriptorChannel)
	if value == "" {
		return nil, nil
	}
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%q is no descriptor number; it is set by flexnbd", wire.EnvDescriptorChannel, value)
	}
	unix.CloseOnExec(fd) // no grandchild may keep the host's end alive
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("descriptor channel %d: %w", fd, err)
	}
	return wire.NewDescriptorChannel(os.NewFile(uintptr(fd), "descriptor-channel"))
}

// exitWithHost ends this process once the host has closed its end, on purpose
// or by dying, even by SIGKILL. What was acknowledged is safe: a Store does not
// acknowledge what it has only in its own memory, unless it said so in
// Info.Survives. The one goroutine that nobody waits for: it ends the process.
func exitWithHost(channel *wire.DescriptorChannel) {
	<-channel.Done()
	os.Exit(0)
}

// outliveSignals lets the host alone decide when this process ends. A service
// manager that stops the host sends SIGTERM to every process of the service, and
// the host still needs its plugins to finish what is in flight. The signals are
// caught and forgotten, not ignored, since children would inherit the latter.
func outliveSignals() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
}

// nameProcess makes ps and pstree show the plugin's name where the kernel would
// show "exe", since stock plugins are run from /proc/self/exe.
func nameProcess(name string) {
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0) // cosmetic
}

// Logger returns a logger whose lines appear in the host's log, under the
// plugin's name and with the place in the plugin's source. Use it freely; at
// levels that the host does not print it costs next to nothing.
func Logger() hclog.Logger { return newLogger("") }

func newLogger(name string) hclog.Logger {
	level := hclog.LevelFromString(os.Getenv(wire.EnvLogLevel))
	if level == hclog.NoLevel {
		level = hclog.Warn
	}
	return hclog.New(&hclog.LoggerOptions{
		Name:            name,
		Level:           level,
		Output:          stderr,
		JSONFormat:      true,
		IncludeLocation: true,
	})
}

// stderr is the real standard error; go-plugin puts a pipe in os.Stderr.
var stderr = os.Stderr
