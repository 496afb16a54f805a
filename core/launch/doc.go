// SPDX-License-Identifier: GPL-3.0-or-later

// Package launch starts processes on behalf of a process that has confined itself and
// so can't start any: what sandbox.Enter takes away, children do not get back.
//
// Before it confines itself, the server starts a launcher, which is this same binary,
// and hands it its plans:
//
//	l, err := launch.New([]launch.Plan{{Exe: "/usr/lib/x", Args: []string{"x"}, Policy: policy}}, ...)
//	p, err := l.Start(launch.Request{Plan: 0, ...})
//	pid, err := p.PID()
//	err = p.Running()
//
// The launcher is not confined. So it takes no orders but these: start this plan, with
// these descriptors and this handful of variables. It has read the plans before the
// server had its first client, and never reads others. Whoever takes over the server
// can start again what runs already, under the same policy, and nothing else. The
// launcher reads no file but those that its plans name, holds no descriptor but the one
// that orders come by, and ends when that does.
//
// # Whose child
//
// What is started is a child of the server, not of the launcher (CLONE_PARENT): the
// server waits for it, stops it and learns how it ended, as if it had started it
// itself, and a launcher that dies takes nothing along.
//
// # From the order to the program
//
//	server                    launcher                     child
//	order, 4 descriptors ---> open and check the program
//	                          clone, exec itself --------> read the plan
//	                     <--- "pid N"                      enter the sandbox
//	                     <-------------------------------- an error, or the end of file
//	                                                       become the program
//
// The child is this binary too, at first. It confines itself and then becomes the
// program: by exec, or, where that is this very binary, by going on (then nothing has
// to be executable inside the sandbox). What it and the launcher have to say goes
// through one pipe of the order's, to the server.
package launch
