// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// peer starts a server of another project on a socket that is listening
// already, handed over as systemd does it, so that nothing has to be waited
// for, and returns a way to connect.
func peer(t *testing.T, command string, args ...string) func() net.Conn {
	t.Helper()
	program, err := exec.LookPath(command)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is needed for this test: %v", command, err)
		}
		t.Skipf("%s is not installed", command)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var stderr bytes.Buffer
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh", program}, args...)...)
	cmd.ExtraFiles = []*os.File{file}
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// The server has a copy of its own. Once that is gone, so is the socket,
	// and a server that did not start refuses connections.
	l.SetUnlinkOnClose(false)
	l.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said: %s", command, &stderr)
		}
	})
	return func() net.Conn {
		conn, err := net.DialTimeout("unix", path, patience)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
}

// exercise writes, flushes and reads back.
func exercise(t *testing.T, conn net.Conn, export string) {
	t.Helper()
	exerciseWith(t, conn, export, nil)
}

// exerciseWith does so with a server that answers a flush with an error.
func exerciseWith(t *testing.T, conn net.Conn, export string, flush error) {
	t.Helper()
	c, err := Connect(t.Context(), conn, Options{Export: export, HandshakeTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	if c.Size() != 1<<20 || !c.Flags().Has(nbd.FlagHasFlags|nbd.FlagSendFlush) {
		t.Errorf("%d bytes, %v", c.Size(), c.Flags())
	}
	data := pattern(700000)
	if err := c.WriteFrom(t.Context(), bytes.NewReader(data), 4096, uint32(len(data))); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(t.Context()); !errors.Is(err, flush) {
		t.Error(err)
	}
	var got bytes.Buffer
	if err := c.ReadTo(t.Context(), &got, 0, 1<<20); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 1<<20)
	copy(want[4096:], data)
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("what was read is not what was written")
	}
	if err := c.Disconnect(); err != nil {
		t.Error(err)
	}
}

func TestNbdkitIsUnderstood(t *testing.T) {
	for name, args := range map[string][]string{
		"GO":             {"-f", "memory", "1M"},
		"no NO_ZEROES":   {"-f", "--mask-handshake=1", "memory", "1M"},
		"plain newstyle": {"-f", "--mask-handshake=0", "memory", "1M"},
	} {
		t.Run(name, func(t *testing.T) {
			exercise(t, peer(t, "nbdkit", args...)(), "any name")
		})
	}
}

func TestNbdkitsErrorsAreUnderstood(t *testing.T) {
	dial := peer(t, "nbdkit", "-f", "--filter=error", "memory", "1M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%")
	c, err := Connect(t.Context(), dial(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	data := make([]byte, 600000)
	if err := c.WriteFrom(t.Context(), bytes.NewReader(data), 0, uint32(len(data))); !errors.Is(err, nbd.ENOSPC) {
		t.Errorf("got %v", err)
	}
	var got bytes.Buffer
	if err := c.ReadTo(t.Context(), &got, 0, 512); err != nil || got.Len() != 512 {
		t.Errorf("afterwards: got %v", err)
	}
}

func TestNbdkitsReadOnlyExportIsRecognised(t *testing.T) {
	c, err := Connect(t.Context(), peer(t, "nbdkit", "-f", "-r", "memory", "1M")(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.WriteFrom(t.Context(), strings.NewReader("x"), 0, 1); !errors.Is(err, ErrReadOnly) {
		t.Errorf("got %v", err)
	}
}

func TestNbdkitsOldstyleIsUnderstood(t *testing.T) {
	// nbdkit 1.32 advertises FLUSH in the oldstyle handshake and then refuses it.
	exerciseWith(t, peer(t, "nbdkit", "-f", "-o", "memory", "1M")(), "", nbd.EINVAL)
}

func TestNbdkitsReadOnlyOldstyleExportIsRecognised(t *testing.T) {
	c, err := Connect(t.Context(), peer(t, "nbdkit", "-f", "-o", "-r", "memory", "1M")(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.WriteFrom(t.Context(), strings.NewReader("x"), 0, 1); !errors.Is(err, ErrReadOnly) {
		t.Errorf("got %v", err)
	}
}

func TestNbdkitsBlockSizesAreObeyed(t *testing.T) {
	dial := peer(t, "nbdkit", "-f", "--filter=blocksize-policy", "memory", "1M",
		"blocksize-minimum=512", "blocksize-preferred=4096", "blocksize-maximum=64k", "blocksize-error-policy=error")
	c, err := Connect(t.Context(), dial(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if sizes, told := c.BlockSizes(); sizes != (nbd.BlockSizes{Minimum: 512, Preferred: 4096, MaxPayload: 65536}) || !told {
		t.Errorf("got %+v, %v", sizes, told)
	}
	if err := c.ReadTo(t.Context(), &bytes.Buffer{}, 1, 512); !errors.Is(err, ErrUnsupported) {
		t.Errorf("got %v", err)
	}
	if err := c.ReadTo(t.Context(), &bytes.Buffer{}, 512, 65536); err != nil {
		t.Error(err)
	}
}

func TestQemuNbdIsUnderstood(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dial := peer(t, "qemu-nbd", "-f", "raw", "-x", "disk", "-t", image)
	exercise(t, dial(), "disk")

	_, err := Connect(t.Context(), dial(), Options{Export: "other"})
	var no *RefusedError
	if !errors.As(err, &no) || no.Reply != nbd.RepErrUnknown || no.Message == "" {
		t.Errorf("got %v", err)
	}
	exercised, err := os.ReadFile(image)
	if err != nil || !bytes.Equal(exercised[4096:4096+700000], pattern(700000)) {
		t.Errorf("the image does not hold what was written: %v", err)
	}
}
