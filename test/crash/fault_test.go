// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"fmt"
	"strings"
)

// fault is what a process is told to do at one of its failpoints.
type fault string

// faults are those of one process.
type faults []fault

func (f faults) String() string {
	terms := make([]string, len(f))
	for i, x := range f {
		terms[i] = string(x)
	}
	return strings.Join(terms, ";")
}

// kills lets the process die at a point.
func kills(point string) fault { return fault(point + `=return("kill")`) }

// killsLater is kills when the point has been reached n times before.
func killsLater(point string, n int) fault {
	if n == 0 {
		return kills(point)
	}
	return fault(fmt.Sprintf(`%s=%d*off->1*return("kill")`, point, n))
}

// stops stops the process once at a point.
func stops(point string) fault { return fault(point + `=1*return("stop")`) }

// fails lets a point fail once.
func fails(point, errno string) fault {
	return fault(fmt.Sprintf(`%s=1*return("error:%s")`, point, errno))
}

// failsLater is fails when the point has been reached n times before.
func failsLater(point, errno string, n int) fault {
	return fault(fmt.Sprintf(`%s=%d*off->1*return("error:%s")`, point, n, errno))
}

// failsAlways lets a point fail each time.
func failsAlways(point, errno string) fault {
	return fault(fmt.Sprintf(`%s=return("error:%s")`, point, errno))
}

// lingersLater is lingers when the point has been reached n times before.
func lingersLater(point string, ms, n int) fault {
	return fault(fmt.Sprintf("%s=%d*off->1*sleep(%d)", point, n, ms))
}

// lingers keeps the process at a point once, for some milliseconds: for what has to
// happen while it is there.
func lingers(point string, ms int) fault { return fault(fmt.Sprintf("%s=1*sleep(%d)", point, ms)) }
