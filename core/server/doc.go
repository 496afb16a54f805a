// SPDX-License-Identifier: GPL-3.0-or-later

// Package server accepts connections, admits them and runs a session for each
// until it is told to stop.
//
//	s := server.New(server.Config{Listener: l, Export: e, MaxClients: 256, Log: log})
//	err := s.Run(stop, force)
//
// # How a server stops
//
// When stop ends it closes the listener and tells the sessions, which refuse new
// requests with ESHUTDOWN, finish those in flight and close. Then the disk is
// flushed, and Run returns.
//
// After Disconnect the disk belongs to somebody else. It is not flushed, and nothing
// that its backend does, or does not do, makes Run fail.
//
// When the sessions take longer than Config.StopTimeout, their connections are
// cut. A client that does not read loses its connection by that, and nothing else:
// the flush still takes place. Only a session that does not end even so waits for
// a backend that hangs. Then, and at once when force ends, Config.Abandon is
// called, which has to make every call of the Store fail: it kills the backend. So
// neither kind can prevent the end.
//
// The server closes neither the Export nor what is below it; whoever made them
// does, after Run.
package server
