// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"bufio"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// parent starts a shell that has a child, and returns both process ids. The child
// works until it has used some CPU time, says so, and waits for the end of its
// input.
func parent(t *testing.T) (shell, child int) {
	t.Helper()
	c := exec.Command("sh", "-c", `sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo $$; read end' <&0 & wait`)
	c.Args[2] = strings.Replace(c.Args[2], "<&0 &", "<&3 &", 1)
	in, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.ExtraFiles = []*os.File{in}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	t.Cleanup(func() {
		hold.Close()
		_ = c.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err = strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return c.Process.Pid, child
}

func TestTreeHasChildren(t *testing.T) {
	shell, child := parent(t)
	if have, want := Tree(shell), []int{shell, child}; !slices.Equal(have, want) {
		t.Errorf("the tree of %d is %d, want %d", shell, have, want)
	}
	if have := Tree(os.Getpid()); !slices.Contains(have, child) {
		t.Errorf("the test's own tree %d lacks the grandchild %d", have, child)
	}
}

func TestCPUTimeIsThatOfTheWholeTree(t *testing.T) {
	shell, child := parent(t)
	whole, err := CPUTime(shell)
	if err != nil {
		t.Fatal(err)
	}
	one, err := clock(child)
	if err != nil {
		t.Fatal(err)
	}
	if one < time.Millisecond || whole < one {
		t.Errorf("the tree took %v, the child alone, which has counted to 200000, %v", whole, one)
	}
	if again, err := CPUTime(shell); err != nil || again < whole {
		t.Errorf("the time goes from %v to %v (%v)", whole, again, err)
	}
}

func TestMemoryIsThatOfTheWholeTree(t *testing.T) {
	shell, child := parent(t)
	whole, err := Memory(shell)
	if err != nil {
		t.Fatal(err)
	}
	one, err := proportional(child)
	if err != nil {
		t.Fatal(err)
	}
	if one < 10<<10 || whole <= one {
		t.Errorf("the tree takes %d bytes, the child alone %d", whole, one)
	}
}

func TestProcessThatIsGoneIsAnError(t *testing.T) {
	c := exec.Command("true")
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	if took, err := CPUTime(c.Process.Pid); err == nil {
		t.Errorf("a process that has ended took %v", took)
	}
	if bytes, err := Memory(c.Process.Pid); err == nil {
		t.Errorf("a process that has ended takes %d bytes", bytes)
	}
}
