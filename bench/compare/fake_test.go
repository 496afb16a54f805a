// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// The test program is also the server that the tests measure:
//
//	fake-server plain|daemon|family|broken|deaf PORT IMAGE PIDFILE
//
// All of them lock the image, as flexnbd does, and a family's child, which has the
// lock too, ends some time after its parent.
const fakeServer = "fake-server"

func TestMain(m *testing.M) {
	if len(os.Args) == 6 && os.Args[1] == fakeServer {
		if err := fake(os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
			fmt.Fprintln(os.Stderr, "fake server:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func fakeKind(name, kind string) server {
	return server{
		name: name, binary: os.Args[0], daemon: kind == "daemon",
		arguments: func(p place) ([]string, error) {
			return []string{fakeServer, kind, p.port, p.image, p.pidFile()}, nil
		},
	}
}

func fake(kind, port, image, pidFile string) error {
	if kind == "broken" {
		return fmt.Errorf("cannot serve %s", image)
	}
	if kind == "daemon" {
		child := exec.Command(os.Args[0], fakeServer, "plain", port, image, pidFile)
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := child.Start(); err != nil {
			return err
		}
		return os.WriteFile(pidFile, []byte(strconv.Itoa(child.Process.Pid)+"\n"), 0o600)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", image, err)
	}
	if kind == "family" {
		child := exec.Command("sh", "-c", "read end; exec sleep 0.05", fakeServer, image)
		child.ExtraFiles = []*os.File{f}
		child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		hold, err := child.StdinPipe()
		if err != nil {
			return err
		}
		defer hold.Close()
		if err := child.Start(); err != nil {
			return err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go serveFake(kind, conn, f)
	}
}

// serveFake serves one client in the old style; a deaf one hangs up after some
// requests.
func serveFake(kind string, conn net.Conn, f *os.File) {
	defer conn.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return
	}
	_, _ = conn.Write(nbd.AppendOldstyleGreeting(nil, uint64(size), nbd.OldstyleFlags))
	header := make([]byte, nbd.RequestSize)
	for n := 0; ; n++ {
		if _, err := io.ReadFull(conn, header); err != nil {
			return
		}
		r, err := nbd.DecodeRequest(header)
		if err != nil || r.Command == nbd.CmdDisc || kind == "deaf" && n == 50 {
			return
		}
		reply := nbd.AppendSimpleReply(nil, 0, r.Cookie)
		data := make([]byte, r.Length)
		if r.Command == nbd.CmdRead {
			_, err = f.ReadAt(data, int64(r.Offset))
			reply = append(reply, data...)
		} else if _, err = io.ReadFull(conn, data); err == nil {
			_, err = f.WriteAt(data, int64(r.Offset))
		}
		if err != nil {
			binary.BigEndian.PutUint32(reply[4:], uint32(nbd.EIO))
		}
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}

// leftOver lists processes of fake servers that still run.
func leftOver(t *testing.T, image string) (list []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline"); strings.Contains(string(line), fakeServer) && strings.Contains(string(line), image) {
			if pid, err := strconv.Atoi(e.Name()); err == nil {
				list = append(list, pid)
			}
		}
	}
	return list
}
