// SPDX-License-Identifier: GPL-3.0-or-later

// Package host finds plugins, starts them as processes of their own, watches
// them, replaces those that crash and ends them.
//
//	h, err := host.New(log)
//	defer h.Close()
//	program, err := finder.Find(spec)            // spec from host.ParseSpec
//	disk, err := h.OpenDisk(ctx, program, what)  // a store.Store
//	disk.OnRestart(export.Restarted)
//	listener, err := h.Listen(ctx, other, addr)  // a transport.Listener
//	dialler := h.Dialler(other)                  // dialler.Dial(ctx, to, from)
//	...
//	err = disk.Close()
//
// A [Disk], a [Listener] and a [Dialler] outlive the processes that do their work;
// their comments say what a crash leaves of a call. A [Process] is one of these
// processes, for callers that need no more: h.Start, process.Transport,
// process.Stop.
//
// For a process that confines itself, [NewLaunching] makes a host that starts the plugins
// of its plans through a launcher, see package launch; [Program.Policy] is what each of
// them is confined to.
//
// It knows no plugin by name: the stock ones, which are inside the flexnbd
// binary, are listed in Finder.Stock by whoever wires the program together.
//
// # How a plugin lives
//
// A plugin is started in a process group of its own, with /dev/null as standard
// input, an allow-listed environment, no descriptor but its end of the
// descriptor channel, and a private directory for its socket. It ends when
// that channel does: because Stop closed it or because the host is gone, even by
// SIGKILL. A plugin that does not end in time, or is stopped by a signal, is
// killed with its process group.
//
// # How a plugin is lost
//
// It ends, is stopped by a signal, does not answer the heartbeat, or breaks its
// line: Process.awaitLoss notices the first three, a call the last one. Then it is
// killed if it has to be, reaped, and started again, within the bounds in
// restart.go. The log has one line for how it was lost and one for its successor.
// A [Dialler], which watches its process only while it dials, also gives up one that
// is silent until the dial's deadline.
//
// Lock order: Disk.closing, Disk.mu; Listener.turn, Listener.mu; Dialler.turn;
// runner.mu. A call on a Disk takes its claim on a range before them. No process is
// waited for with one of the mu held.
//
// # go-plugin's traps, and where they are handled
//
//   - only gRPC, said in AllowedProtocols: process.go
//   - messages over 4 MiB refused by the server's side: wire.NewServer
//   - plugin sockets in a private directory with short paths, stale ones swept:
//     rundir.go
//   - plugins that outlive a killed host; Pdeathsig fires when a thread ends: the
//     descriptor channel's end-of-file, in package sdk
//   - Client.Kill waits for ever on a stopped plugin: Process.Stop kills and reaps
//     first
//   - Client.Start on a dead client returns the old address: a Process is started
//     once, and a new one makes a new client
//   - the host's environment wins over Cmd.Env: SkipHostEnv, environment.go
//   - anything on stdout before the handshake breaks the start: package sdk guards
//     it, and diagnose.go names the culprit
//   - a line like {"@message":1} on a plugin's stderr panics the host, and lines
//     that are not hclog's are lost: go-plugin does not see stderr, runner.go
//   - Client.Client leaves goroutines behind when the plugin ends meanwhile:
//     runner.Wait; and so does Client.Kill where there was no Client.Client before:
//     Process.kill
//   - SecureConfig can be raced: not used; trust.go refuses what others could have
//     written
//   - AutoMTLS: off. On a socket in a 0700 directory of the same user it adds
//     nothing, and it costs 33 ms of start and half of the throughput
//   - Cmd.Stdin becomes the host's: runner.go does not use that Cmd
//   - Wait waits for stdout and stderr, which a grandchild can keep open: runner.go
//     waits for the process itself, then kills its group
//   - SIGQUIT and SIGTERM reach plugins: process group of its own; package sdk
//     outlives the signals of a service manager
//   - /proc/self/exe, not the path, for stock plugins: find.go
//   - errno across the wire: wire.RemoteError
package host
