// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// server is a kind of server that can be measured.
type server struct {
	name    string
	lane    string   // of flexnbd; empty for a peer
	binary  string   // found in PATH, unless it has a slash
	debian  string   // the package that has it
	version []string // arguments that make it say its version; none: see versionOf
	export  string   // the name to ask for
	builds  string   // what has to be built for it; empty: nothing
	// extra servers are variants that were tried to find the best options, and run
	// only if they are named.
	extra bool
	// arguments of a process that serves the image on the port of 127.0.0.1, which
	// may keep files in dir.
	arguments func(place) ([]string, error)
	// daemon says that the process leaves another one in the background, whose id
	// is in place.pidFile.
	daemon bool
}

// place is where one server runs, for one turn.
type place struct {
	image, port, dir string
}

func (p place) pidFile() string { return filepath.Join(p.dir, "pid") }

// generalize names what differs from run to run, for the reports.
func (p place) generalize(arguments []string) []string {
	list := slices.Clone(arguments)
	for i := range list {
		list[i] = strings.NewReplacer(p.image, "IMAGE", p.dir, "DIR", p.port, "PORT").Replace(list[i])
	}
	return list
}

// fixed makes arguments of patterns, in which IMAGE and PORT stand for what they say.
func fixed(arguments ...string) func(place) ([]string, error) {
	return func(p place) ([]string, error) {
		list := slices.Clone(arguments)
		for i := range list {
			list[i] = strings.NewReplacer("IMAGE", p.image, "PORT", p.port).Replace(list[i])
		}
		return list, nil
	}
}

// selectServers returns those that the patterns choose, as path.Match has them, or
// all but the extra ones if there is no pattern.
func selectServers(all []server, patterns []string) (chosen []server, err error) {
	hit := make([]bool, len(patterns))
	for _, s := range all {
		wanted := len(patterns) == 0 && !s.extra
		for i, pattern := range patterns {
			matched, err := path.Match(pattern, s.name)
			if err != nil {
				return nil, fmt.Errorf("-server %s: %w", pattern, err)
			}
			hit[i] = hit[i] || matched
			// An extra server has to be named in full.
			wanted = wanted || matched && (!s.extra || pattern == s.name)
		}
		if wanted {
			chosen = append(chosen, s)
		}
	}
	if i := slices.Index(hit, false); i >= 0 {
		var names []string
		for _, s := range all {
			names = append(names, s.name)
		}
		return nil, fmt.Errorf("-server %s: no such server; there are %s", patterns[i], strings.Join(names, ", "))
	}
	return chosen, nil
}

// checkInstalled says what to install if a server is not there.
func checkInstalled(servers []server) error {
	var missing, packages []string
	for _, s := range servers {
		if _, err := exec.LookPath(s.binary); err == nil {
			continue
		}
		if s.debian == "" {
			return fmt.Errorf("%s: no executable file %s", s.name, s.binary)
		}
		if !slices.Contains(packages, s.debian) {
			missing, packages = append(missing, s.name), append(packages, s.debian)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%s not found: apt-get install %s, or choose other servers with -server",
		strings.Join(missing, ", "), strings.Join(packages, " "))
}

// versionOf asks the server for its version. flexnbd has no option for that, so it is
// the commit that counts, and the program's hash for a flexnbd from elsewhere.
func versionOf(s server) (string, error) {
	if s.version == nil {
		file, err := exec.LookPath(s.binary)
		if err != nil {
			return "", err
		}
		program, err := os.ReadFile(file)
		return fmt.Sprintf("SHA-256 %.16x", sha256.Sum256(program)), err
	}
	out, err := exec.Command(s.binary, s.version...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", s.binary, strings.Join(s.version, " "), err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line, nil
}

// write makes a file in the server's folder.
func (p place) write(name, content string) (string, error) {
	file := filepath.Join(p.dir, name)
	return file, os.WriteFile(file, []byte(content), 0o600)
}
