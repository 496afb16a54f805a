// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const top = "flexnbd-backend-memory/"

func TestUnpackPacked(t *testing.T) {
	from := built(t, "1.0")
	dir := filepath.Join(folder(t), "x")
	if err := Unpack(bytes.NewReader(packed(t, from)), dir, Limits{}); err != nil {
		t.Fatal(err)
	}
	if err := opened(t, dir).Verify(); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]os.FileMode{exeName: 0o755, "LICENSE": 0o644, ManifestFile: 0o644, SumsFile: 0o644, ".": 0o755} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", name, st.Mode(), err, want)
		}
	}
}

func TestPackIsReproducible(t *testing.T) {
	one := packed(t, built(t, "1.0"))
	// Other inodes, other times, other modes, another folder.
	dir := built(t, "1.0")
	long := time.Unix(1e9, 0)
	for _, name := range []string{exeName, "LICENSE", ManifestFile, SumsFile} {
		if err := os.Chtimes(filepath.Join(dir, name), long, long); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(one, packed(t, dir)) {
		t.Error("two packs of the same files differ")
	}

	at, err := SourceDate(func(string) string { return "1700000000" })
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Pack(&out, opened(t, dir), at); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(gunzip(t, out.Bytes())))
	last := ""
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime != at || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.Name < last {
			t.Errorf("%+v", h)
		}
		last = h.Name
	}
}

func TestPackRefusesWhatDoesNotVerify(t *testing.T) {
	dir := built(t, "1.0")
	b := opened(t, dir)
	write(t, filepath.Join(dir, "LICENSE"), "")
	if err := Pack(io.Discard, b, time.Time{}); !errors.Is(err, ErrTampered) {
		t.Error(err)
	}
}

// changing changes a file as soon as something is written to it.
type changing struct{ change func() }

func (c changing) Write(p []byte) (int, error) { c.change(); return len(p), nil }

func TestPackRefusesWhatChangesMeanwhile(t *testing.T) {
	dir := built(t, "1.0")
	w := changing{func() { write(t, filepath.Join(dir, "LICENSE"), "do as WE like!\n") }}
	if err := Pack(w, opened(t, dir), time.Time{}); !errors.Is(err, ErrTampered) {
		t.Error(err)
	}
}

// A file may be larger than what is allowed for all else.
func TestUnpackPackedLargeFile(t *testing.T) {
	from := filepath.Join(folder(t), "x")
	b, err := Build(from, manifest(), map[string]string{exeName: write(t, filepath.Join(folder(t), "exe"), strings.Repeat("0123456789", maxOverhead/4))})
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	dir := filepath.Join(folder(t), "x")
	if err := Unpack(bytes.NewReader(packed(t, from)), dir, Limits{}); err != nil {
		t.Fatal(err)
	}
	if err := opened(t, dir).Verify(); err != nil {
		t.Error(err)
	}
}

func TestSourceDate(t *testing.T) {
	for value, want := range map[string]int64{"": 0, "0": 0, "1700000000": 1700000000} {
		if at, err := SourceDate(func(string) string { return value }); err != nil || at.Unix() != want {
			t.Errorf("%q: %v, %v", value, at, err)
		}
	}
	for _, value := range []string{"now", "-1", "1.5", "99999999999999"} {
		_, err := SourceDate(func(string) string { return value })
		says(t, err, "SOURCE_DATE_EPOCH", value)
	}
}

// What people make by hand with tar is taken as well.
func TestUnpackTakesWhatTarMakes(t *testing.T) {
	gnutar, err := exec.LookPath("tar")
	if err != nil {
		t.Fatal(err) // every Debian has it
	}
	in := folder(t)
	if err := os.Rename(built(t, "1.0"), filepath.Join(in, exeName)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-czf"}, {"--format=pax", "-czf"}, {"--format=ustar", "-czf"}} {
		file := filepath.Join(folder(t), "x.tar.gz")
		if out, err := exec.Command(gnutar, append(args, file, "-C", in, exeName)...).CombinedOutput(); err != nil {
			t.Fatalf("tar %v: %v: %s", args, err, out)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(folder(t), "x")
		if err := Unpack(bytes.NewReader(data), dir, Limits{}); err != nil {
			t.Fatalf("tar %v: %v", args, err)
		}
		if err := opened(t, dir).Verify(); err != nil {
			t.Error(err)
		}
	}
}

func paxRecord(key, value string) string {
	rest := " " + key + "=" + value + "\n"
	n := len(rest) + 1
	for len(fmt.Sprint(n))+len(rest) != n {
		n++
	}
	return fmt.Sprint(n) + rest
}

func TestUnpackRefuses(t *testing.T) {
	text := encoded(t, manifest())
	good := tarEntry{name: top + ManifestFile, data: text}
	evil := strings.Replace(text, `"executable": "`, `"executable": "../`, 1)
	for _, c := range []struct {
		what string
		data []byte
		is   error
		says string
	}{
		{"nothing", nil, ErrMalformed, "no gzipped tarball"},
		{"no gzip", []byte("PK\x03\x04 and so on"), ErrMalformed, "no gzipped tarball"},
		{"no tar", gzipped(t, bytes.Repeat([]byte("x"), 1024)), ErrMalformed, "damaged"},
		{"empty tar", gzipped(t, tarEnd), ErrMalformed, "no plugin.json"},
		{"no manifest", tarball(t, tarEntry{name: top + exeName}), ErrMalformed, "no plugin.json"},
		{"bad manifest", tarball(t, tarEntry{name: top + ManifestFile, data: "{}"}), ErrMalformed, "schema"},
		{"executable climbs out", tarball(t, tarEntry{name: top + ManifestFile, data: evil}), ErrMalformed, "executable"},
		{"another folder", tarball(t, tarEntry{name: "flexnbd-backend-other/" + ManifestFile, data: text}), ErrMalformed, "has to be called flexnbd-backend-memory"},
		{"two folders", tarball(t, good, tarEntry{name: "other/x"}), ErrMalformed, "as the others are"},
		{"no folder", tarball(t, tarEntry{name: ManifestFile, data: text}), ErrMalformed, "plain names"},
		{"dot in front", tarball(t, tarEntry{name: "./" + top + ManifestFile, data: text}), ErrMalformed, "plain names"},
		{"climbs out", tarball(t, good, tarEntry{name: top + "../x"}), ErrMalformed, "plain names"},
		{"climbs out further", tarball(t, good, tarEntry{name: "../x"}), ErrMalformed, "plain names"},
		{"is the folder above", tarball(t, good, tarEntry{name: top + ".."}), ErrMalformed, "plain names"},
		{"absolute", tarball(t, good, tarEntry{name: "/etc/passwd"}), ErrMalformed, "plain names"},
		{"folder inside", tarball(t, good, tarEntry{name: top + "bin/", kind: tar.TypeDir}), ErrMalformed, "plain names"},
		{"file in folder inside", tarball(t, good, tarEntry{name: top + "bin/x"}), ErrMalformed, "plain names"},
		{"folder instead of file", tarball(t, good, tarEntry{name: top + "bin", kind: tar.TypeDir}), ErrMalformed, "neither a regular file"},
		{"file as the folder", tarball(t, tarEntry{name: top, kind: tar.TypeCont}), ErrMalformed, "neither a regular file"},
		{"hidden file", tarball(t, good, tarEntry{name: top + ".profile"}), ErrMalformed, "plain names"},
		{"control characters", tarball(t, good, tarEntry{name: top + "\x1b[31m"}), ErrMalformed, "plain names"},
		{"symbolic link", tarball(t, good, tarEntry{name: top + "x", kind: tar.TypeSymlink, link: "/etc/passwd"}), ErrMalformed, "neither a regular file"},
		{"link inside", tarball(t, good, tarEntry{name: top + "x", kind: tar.TypeSymlink, link: ManifestFile}), ErrMalformed, "neither a regular file"},
		{"hard link", tarball(t, good, tarEntry{name: top + "x", kind: tar.TypeLink, link: top + ManifestFile}), ErrMalformed, "neither a regular file"},
		{"device", tarball(t, good, tarEntry{name: top + "x", kind: tar.TypeBlock}), ErrMalformed, "neither a regular file"},
		{"character device", tarball(t, good, tarEntry{name: top + "x", kind: tar.TypeChar}), ErrMalformed, "neither a regular file"},
		{"pipe", tarball(t, good, tarEntry{name: top + "x", kind: tar.TypeFifo}), ErrMalformed, "neither a regular file"},
		{"reserved type", tarball(t, good, tarEntry{name: top + "x", kind: tar.TypeCont}), ErrMalformed, "neither a regular file"},
		{"global header", tarball(t, tarEntry{name: "pax", kind: tar.TypeXGlobalHeader, data: paxRecord("comment", "x")}, good), ErrMalformed, "plain names"},
		{"old sparse file", tarball(t, good, tarEntry{name: top + "x", kind: tar.TypeGNUSparse}), ErrMalformed, ""},
		{"sparse file", tarball(t, good, tarEntry{name: "x", kind: tar.TypeXHeader, data: paxRecord("GNU.sparse.major", "1") + paxRecord("GNU.sparse.minor", "0") +
			paxRecord("GNU.sparse.name", top+"x") + paxRecord("GNU.sparse.realsize", "1024")},
			tarEntry{name: top + "x", data: "1\n0\n512\n" + strings.Repeat("\x00", 504) + strings.Repeat("x", 512)}), ErrMalformed, "sparse"},
		{"other name in PAX header", tarball(t, good, tarEntry{name: "x", kind: tar.TypeXHeader, data: paxRecord("path", top+"../../x")}, tarEntry{name: top + "x"}), ErrMalformed, "plain names"},
		{"other name in GNU header", tarball(t, good, tarEntry{name: "x", kind: tar.TypeGNULongName, data: "/etc/x\x00"}, tarEntry{name: top + "x"}), ErrMalformed, "plain names"},
		{"other size in PAX header", tarball(t, good, tarEntry{name: "x", kind: tar.TypeXHeader, data: paxRecord("size", "1099511627776")}, tarEntry{name: top + "x"}), ErrTooLarge, "268435456"},
		{"duplicate file", tarball(t, good, good), ErrMalformed, "twice"},
		{"duplicate folder", tarball(t, tarEntry{name: top, kind: tar.TypeDir}, tarEntry{name: top, kind: tar.TypeDir}, good), ErrMalformed, "twice"},
		{"too long a manifest", tarball(t, tarEntry{name: top + ManifestFile, data: text + strings.Repeat(" ", maxText)}), ErrTooLarge, "may have 65536"},
		{"too long sums", tarball(t, good, tarEntry{name: top + SumsFile, data: strings.Repeat(" ", maxText+1)}), ErrTooLarge, "may have 65536"},
		{"second archive", gzipped(t, raw(good), tarEnd, raw(tarEntry{name: top + "x"}), tarEnd), ErrMalformed, "something follows"},
		{"garbage behind", append(tarball(t, good), "garbage"...), ErrMalformed, "cut short"},
		{"cut short in a file", gzipped(t, raw(good)[:700]), ErrMalformed, "cut short"},
	} {
		t.Run(c.what, func(t *testing.T) {
			in := folder(t)
			err := Unpack(bytes.NewReader(c.data), filepath.Join(in, "x"), Limits{})
			says(t, err, c.says)
			if !errors.Is(err, c.is) || !printableError(err) {
				t.Errorf("%q", err)
			}
			unchanged(t, in, map[string]string{})
		})
	}
}

func TestUnpackRefusesTruncatedGzip(t *testing.T) {
	data := packed(t, built(t, "1.0"))
	in := folder(t)
	for n := 0; n < len(data); n += 7 {
		if err := Unpack(bytes.NewReader(data[:n]), filepath.Join(in, "x"), Limits{}); !errors.Is(err, ErrMalformed) {
			t.Errorf("the first %d of %d bytes: %v", n, len(data), err)
		}
	}
	for _, n := range []int{1, 4, 5, 8} { // of the checksum and the size at the end
		err := Unpack(bytes.NewReader(data[:len(data)-n]), filepath.Join(in, "x"), Limits{})
		says(t, err, "cut short")
	}
	unchanged(t, in, map[string]string{})
}

func TestUnpackKeepsLimits(t *testing.T) {
	good := tarEntry{name: top + ManifestFile, data: encoded(t, manifest())}
	for _, c := range []struct {
		limits  Limits
		entries []tarEntry
		says    string
	}{
		{Limits{Files: 2}, []tarEntry{good, {name: top + "a"}, {name: top + "b"}}, "more than 2 files"},
		{Limits{File: 1000}, []tarEntry{good, {name: top + "a", data: strings.Repeat("x", 1001)}}, "may have 1000"},
		{Limits{Total: 2000}, []tarEntry{good, {name: top + "a", data: strings.Repeat("x", 1800)}}, "more than 2000 bytes"},
	} {
		in := folder(t)
		err := Unpack(bytes.NewReader(tarball(t, c.entries...)), filepath.Join(in, "x"), c.limits)
		says(t, err, c.says)
		if !errors.Is(err, ErrTooLarge) {
			t.Error(err)
		}
		unchanged(t, in, map[string]string{})
	}
}

// bomb is a tarball that begins with first and goes on with 10 GiB of zeroes, made
// as they are read: gzip files can be joined.
func bomb(t testing.TB, first ...[]byte) io.Reader {
	t.Helper()
	const piece = 1 << 20
	zeroes := repeat(gzipped(t, make([]byte, piece)), 10<<30/piece)
	return io.MultiReader(bytes.NewReader(gzipped(t, first...)), zeroes)
}

func TestBombEndsEarly(t *testing.T) {
	good := raw(tarEntry{name: top + ManifestFile, data: encoded(t, manifest())})
	const huge = 8<<30 - 1                                                                                          // as much as fits a plain header
	headers := tarEntry{name: "x", kind: tar.TypeXHeader, data: paxRecord("comment", strings.Repeat("x", 250<<10))} // 10 GiB of them, too
	for _, c := range []struct {
		what   string
		data   io.Reader
		limits Limits
		says   string
		read   int64 // at most so many bytes of the gzip
	}{
		{"one huge file", bomb(t, good, raw(tarEntry{name: top + "x", size: huge})), Limits{}, "may have 268435456", 1 << 20},
		{"zeroes behind a large file", bomb(t, good, raw(tarEntry{name: top + "x", size: 4 << 20})), Limits{Total: 8 << 20}, "follow its end", 1 << 20},
		{"zeroes behind", bomb(t, good, tarEnd), Limits{}, "follow its end", 1 << 20},
		{"headers alone", io.MultiReader(bytes.NewReader(gzipped(t, good)), repeat(gzipped(t, raw(headers)), 40<<10)), Limits{}, "headers", 1 << 20},
	} {
		t.Run(c.what, func(t *testing.T) {
			in := folder(t)
			counted := &counter{r: c.data}
			err := Unpack(counted, filepath.Join(in, "x"), c.limits)
			says(t, err, c.says)
			if !errors.Is(err, ErrTooLarge) {
				t.Error(err)
			}
			if counted.n > c.read {
				t.Errorf("%d bytes were read until it was clear", counted.n)
			}
			unchanged(t, in, map[string]string{})
		})
	}
}

func repeat(data []byte, times int) io.Reader {
	all := make([]io.Reader, times)
	for i := range all {
		all[i] = bytes.NewReader(data)
	}
	return io.MultiReader(all...)
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func TestUnpackNeedsANewFolder(t *testing.T) {
	in := folder(t)
	kept := write(t, filepath.Join(in, "kept"), "")
	before := snapshot(t, in)
	data := packed(t, built(t, "1.0"))
	for _, dir := range []string{in, kept, filepath.Join(in, "no", "x")} {
		if err := Unpack(bytes.NewReader(data), dir, Limits{}); err == nil {
			t.Errorf("unpacked to %s", dir)
		}
	}
	unchanged(t, in, before)
}

// FuzzUnpack takes gzip, or a tar that is gzipped here.
func FuzzUnpack(f *testing.F) {
	good := append(raw(tarEntry{name: top + ManifestFile, data: encoded(f, manifest())}), tarEnd...)
	f.Add(good, false)
	f.Add(gzipped(f, good), true)
	f.Add(append(raw(tarEntry{name: top + "../x", data: "x"}), tarEnd...), false)
	z, err := gzip.NewWriterLevel(nil, gzip.NoCompression)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, zipped bool) {
		if !zipped {
			var out bytes.Buffer
			z.Reset(&out)
			_, _ = z.Write(data)
			_ = z.Close()
			data = out.Bytes()
		}
		unpackSafely(t, data)
	})
}

// FuzzUnpackEntry makes an entry of a tarball, with a PAX header before it, and good
// ones around it.
func FuzzUnpackEntry(f *testing.F) {
	good := raw(tarEntry{name: top + ManifestFile, data: encoded(f, manifest())})
	f.Add(top+"x", byte(tar.TypeReg), "", "data", int64(0), "", "")
	f.Add(top+"../x", byte(tar.TypeReg), "", "", int64(0), "", "")
	f.Add(top, byte(tar.TypeDir), "", "", int64(0), "mtime", "1.5")
	f.Add(top+"x", byte(tar.TypeSymlink), "/etc/passwd", "", int64(0), "path", top+"y")
	f.Add(top+"x", byte(tar.TypeReg), "", "1\n0\n512\n", int64(512), "GNU.sparse.map", "0,1")
	f.Add(top+"x", byte(tar.TypeGNULongName), "", "/etc/x", int64(0), "size", "8589934592")
	z, err := gzip.NewWriterLevel(nil, gzip.NoCompression)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name string, kind byte, link, data string, size int64, key, value string) {
		if len(data)+len(value) > 64<<10 {
			return
		}
		var out bytes.Buffer
		z.Reset(&out)
		_, _ = z.Write(good)
		if key != "" {
			_, _ = z.Write(raw(tarEntry{name: "pax", kind: tar.TypeXHeader, data: paxRecord(key, value)}))
		}
		_, _ = z.Write(raw(tarEntry{name: name, kind: kind, link: link, data: data, size: size & 0o77777777777}))
		_, _ = z.Write(raw(tarEntry{name: top + "last"}))
		_, _ = z.Write(tarEnd)
		_ = z.Close()
		unpackSafely(t, out.Bytes())
	})
}

// unpackSafely fails unless data is either unpacked to what a bundle may have, or
// refused with nothing left.
func unpackSafely(t *testing.T, data []byte) {
	t.Helper()
	in := t.TempDir()
	dir := filepath.Join(in, "x")
	limits := Limits{Files: 8, File: 1 << 20, Total: 2 << 20}
	err := Unpack(bytes.NewReader(data), dir, limits)
	entries, _ := os.ReadDir(in)
	if err != nil {
		if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) || !printableError(err) {
			t.Fatalf("%q", err)
		}
		if len(entries) != 0 {
			t.Fatalf("left behind %v after %v", entries, err)
		}
		return
	}
	if len(entries) != 1 {
		t.Fatalf("made %v", entries)
	}
	files, _ := os.ReadDir(dir)
	var total int64
	for _, file := range files {
		st, err := file.Info()
		if err != nil || !st.Mode().IsRegular() || !plain(file.Name()) || st.Size() > limits.File {
			t.Fatalf("%v, %v", st, err)
		}
		total += st.Size()
	}
	if len(files) > limits.Files || total > limits.Total {
		t.Fatalf("%d files of %d bytes", len(files), total)
	}
	if b, err := Open(dir); err == nil {
		_ = b.Verify()
		b.Close()
	}
}
