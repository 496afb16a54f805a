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
// flushed, and Run returns. When force ends, or the sessions take longer than
// Config.StopTimeout, connections are cut and Config.Abandon is called, which has
// to make every call of the Store fail: it kills the backend. So a client that
// does not read, or a backend that hangs, delays the end but does not prevent it.
//
// The server closes neither the Export nor what is below it; whoever made them
// does, after Run.
package server
