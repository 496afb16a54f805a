// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

// oldKernel is the variable that makes this binary run its arguments as on a kernel
// that does not know Landlock.
const oldKernel = "FLEXNBD_E2E_OLD_KERNEL"

// runOnOldKernel has the system call that Landlock begins with answered as such a
// kernel does, for this process and all that come of it.
func runOnOldKernel() {
	err := seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true, Flag: seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionAllow,
			Syscalls: []seccomp.SyscallGroup{{
				Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"landlock_create_ruleset"},
			}},
		},
	})
	if err == nil {
		env := slices.DeleteFunc(os.Environ(), func(pair string) bool { return strings.HasPrefix(pair, oldKernel) })
		err = syscall.Exec(os.Args[1], os.Args[1:], env)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
