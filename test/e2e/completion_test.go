// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// completionCase is a command line with the cursor at its end.
type completionCase struct {
	line string
	// offers are the words that the last one can become, all of them if exactly.
	offers  []string
	exactly bool
}

var completionCases = map[string]completionCase{
	"verb":                    {"flexnbd mirror", []string{"mirror", "mirror-speed"}, true},
	"verbs":                   {"flexnbd ", []string{"serve", "listen", "plugin", "version"}, false},
	"verb of plugin":          {"flexnbd plugin in", []string{"info", "install"}, true},
	"verb after an option":    {"flexnbd -v mirror-", []string{"mirror-speed"}, true},
	"help":                    {"flexnbd help prom", []string{"promote"}, true},
	"help of plugin":          {"flexnbd help plugin un", []string{"uninstall"}, true},
	"no more help":            {"flexnbd help serve ", nil, true},
	"option":                  {"flexnbd serve --state", []string{"--state-dir"}, true},
	"options":                 {"flexnbd serve --", []string{"--file", "--addr", "--verbose", "--help"}, false},
	"options behind":          {"flexnbd listen --file x --reb", []string{"--rebind-addr", "--rebind-port"}, true},
	"global option":           {"flexnbd status --ver", []string{"--verbose"}, true},
	"choice":                  {"flexnbd serve --lane ", []string{"file", "ring", "rpc"}, true},
	"choice behind =":         {"flexnbd serve --lane=r", []string{"--lane=ring", "--lane=rpc"}, true},
	"handshake":               {"flexnbd listen --handshake old", []string{"oldstyle"}, true},
	"backend":                 {"flexnbd serve --backend ", []string{"blockdev", "file", "trap"}, true},
	"backend behind =":        {"flexnbd serve --backend=t", []string{"--backend=trap"}, true},
	"backend of help":         {"flexnbd help --backend tr", []string{"trap"}, true},
	"builtin":                 {"flexnbd serve --backend builtin:f", []string{"builtin:file"}, true},
	"backend of --plugin-dir": {"flexnbd serve --plugin-dir more --backend ano", []string{"another"}, true},
	"transport":               {"flexnbd read --transport ", []string{"tcp", "unix"}, true},
	"plugin":                  {"flexnbd plugin info tra", []string{"trap"}, true},
	"second plugin":           {"flexnbd plugin verify file tra", []string{"trap"}, true},
	"file":                    {"flexnbd serve --file dis", []string{"disk.img"}, true},
	"file behind -f":          {"flexnbd serve -f dis", []string{"disk.img"}, true},
	"file behind =":           {"flexnbd serve --file=dis", []string{"--file=disk.img"}, true},
	"file with a colon":       {"flexnbd serve --file a:", []string{"a:b.img"}, true},
	"file in a folder":        {"flexnbd status --sock sub/", []string{"sub/web1.sock"}, true},
	"file with a space":       {`flexnbd serve --file=with\ spa`, []string{"--file=with space.img"}, true},
	"file in quotes":          {`flexnbd serve --file "with spa`, []string{"with space.img"}, true},
	"bundle":                  {"flexnbd plugin install dis", []string{"disk.img"}, true},
	"folder":                  {"flexnbd serve --state-dir ", []string{"more/", "sub/"}, true},
	"file of an option":       {"flexnbd serve --backend trap,key=./dis", []string{"trap,key=./disk.img"}, true},
	"socket of a transport":   {"flexnbd serve --transport unix --addr ./su", []string{"./sub/"}, true},
	"access list":             {"flexnbd serve --addr :: --port 1 --file disk.img ", nil, true},
	"number":                  {"flexnbd serve --port ", nil, true},
	"nonsense":                {"flexnbd nonsense --bac", nil, true},
	"plugin's own verb":       {"flexnbd run-plugin backend-fil", nil, true},
}

// Each shell's script completes each of these lines as that shell would.
func TestShellsComplete(t *testing.T) {
	t.Parallel()
	needs(t, "bash", "fish", "zsh")
	for name, complete := range map[string]func(*desk, string) []string{"bash": (*desk).bash, "fish": (*desk).fish, "zsh": (*desk).zsh} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			for name, c := range completionCases {
				got := complete(d, c.line)
				slices.Sort(got)
				got = slices.Compact(got)
				for _, want := range c.offers {
					if !slices.Contains(got, want) {
						t.Errorf("%s: %q: %q is not among %q", name, c.line, want, got)
					}
				}
				if c.exactly && len(got) != len(c.offers) {
					t.Errorf("%s: %q: got %q, want %q", name, c.line, got, c.offers)
				}
			}
			if exists(t, d.path("started")) {
				t.Error("a plugin was started to complete a word")
			}
		})
	}
}

// Where there is no flexnbd, there is nothing to complete, and nothing is said.
func TestShellsCompleteNothingWithoutFlexnbd(t *testing.T) {
	t.Parallel()
	needs(t, "bash", "fish", "zsh")
	d := newDesk(t)
	if err := os.Remove(d.path("bin/flexnbd")); err != nil {
		t.Fatal(err)
	}
	for name, complete := range map[string]func(*desk, string) []string{"bash": (*desk).bash, "fish": (*desk).fish, "zsh": (*desk).zsh} {
		if got := complete(d, "flexnbd ser"); len(got) > 0 {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// Whatever stands on the line, the answer is one.
func TestCompletingNeverFails(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for _, words := range [][]string{
		{}, {""}, {"-"}, {"--"}, {"--="}, {"---x"}, {"-\xff"}, {"=", ":"}, {"serve", "--", ""}, {"serve", "-fx", "-p"},
		{"serve", "--no-such-option", "--backend", ""}, {"serve", "--backend", ",,,"}, {"serve", "--backend=x,y=z"},
		{"help", "nonsense", ""}, {"help", "plugin", "list", ""}, {"plugin", "nonsense", ""}, {"complete-words", ""},
		{"run-plugin", "backend-file"}, {"stand-in", "/nonexistent"}, {"plugin", "bundle", "a", ""}, {"status", "--watch", ""},
	} {
		r := d.run(nil, programs.flexnbd, append([]string{"complete-words"}, words...)...)
		if r.status != 0 || r.stderr != "" || !strings.Contains(r.stdout, "\t") {
			t.Errorf("%q: exit status %d, %q, %q", words, r.status, r.stdout, r.stderr)
		}
	}
}

// desk is where somebody types: a folder with files, plugins and flexnbd in the PATH.
type desk struct {
	t       *testing.T
	dir     string
	scripts string
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	scripts, err := filepath.Abs("../../packaging/completions")
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t, t.TempDir(), scripts}
	for _, dir := range []string{"bin", "desk/more", "desk/sub", "plugins"} {
		if err := os.MkdirAll(d.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// A plugin that shows that it was started.
	trap := "#!/bin/sh\ntouch '" + d.path("started") + "'\n"
	for path, text := range map[string]string{
		"desk/disk.img": "", "desk/a:b.img": "", "desk/with space.img": "", "desk/sub/web1.sock": "",
		"plugins/flexnbd-backend-trap": trap, "desk/more/flexnbd-backend-another": trap,
	} {
		if err := os.WriteFile(d.path(path), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(programs.flexnbd, d.path("bin/flexnbd")); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *desk) path(name string) string { return filepath.Join(d.dir, name) }

// run runs a program at the desk. Nothing but flexnbd's plugins of the test is found.
func (d *desk) run(env []string, name string, args ...string) result {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), commandTime)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = d.path("desk")
	cmd.Env = append([]string{
		"PATH=" + d.path("bin") + ":/usr/local/bin:/usr/bin:/bin", "HOME=" + d.dir, "XDG_DATA_HOME=" + d.path("data"),
		"XDG_CONFIG_HOME=" + d.path("config"), "FLEXNBD_PLUGIN_PATH=" + d.path("plugins"), "TERM=dumb", "LC_ALL=C.UTF-8",
		"SCRIPTS=" + d.scripts,
	}, env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); cmd.ProcessState == nil || ctx.Err() != nil {
		d.t.Fatalf("%v: %v\n%s%s", cmd.Args, err, stdout.String(), stderr.String())
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// lines runs a shell that has to succeed without a word of complaint.
func (d *desk) lines(env []string, name string, args ...string) []string {
	d.t.Helper()
	r := d.run(env, name, args...)
	if r.status != 0 || r.stderr != "" {
		d.t.Errorf("%s %q %q: exit status %d\n%s%s", name, args, env, r.status, r.stdout, r.stderr)
	}
	return strings.FieldsFunc(r.stdout, func(c rune) bool { return c == '\n' })
}

// fish completes as fish does when a tab is typed.
func (d *desk) fish(line string) []string {
	d.t.Helper()
	var words []string
	for _, answer := range d.lines([]string{"LINE=" + line}, "fish", "--no-config", "-c", `source $SCRIPTS/flexnbd.fish; complete -C "$LINE"`) {
		word, _, _ := strings.Cut(answer, "\t")
		words = append(words, word)
	}
	return words
}

// bash calls the function that is registered, with the variables that bash sets. What
// bash takes for a word of its own is given back as the whole word again.
func (d *desk) bash(line string) []string {
	d.t.Helper()
	words := readlineWords(line)
	script := `
set -u
source "$SCRIPTS/flexnbd.bash"
COMP_WORDBREAKS=$' \t\n"\'@><=;|&(:'
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE=$LINE COMP_POINT=${#LINE} COMPREPLY=()
_flexnbd "$1" "${@: -1}" "${@: -2:1}"
[[ ${#COMPREPLY[@]} -eq 0 ]] || printf '%s\n' "${COMPREPLY[@]}"
[[ $(complete -p flexnbd) == 'complete -F _flexnbd flexnbd' ]]`
	answer := d.lines([]string{"LINE=" + line}, "bash", append([]string{"--norc", "--noprofile", "-c", script, "bash"}, words...)...)
	last := line[strings.LastIndex(strings.ReplaceAll(line, `\ `, "__"), " ")+1:]
	kept := last[:strings.LastIndexAny(last, "=:")+1]
	for i := range answer {
		answer[i] = kept + d.withSlash(answer[i])
	}
	return answer
}

// withSlash puts the slash behind a folder that the shell puts there later.
func (d *desk) withSlash(word string) string {
	if st, err := os.Stat(filepath.Join(d.path("desk"), word)); err == nil && st.IsDir() && !strings.HasSuffix(word, "/") {
		return word + "/"
	}
	return word
}

// readlineWords splits a line as readline does for COMP_WORDS: quotes and backslashes stay,
// and = and : are words of their own.
func readlineWords(line string) []string {
	words := []string{""}
	var quoted bool
	for i := 0; i < len(line); i++ {
		last := &words[len(words)-1]
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line):
			*last += line[i : i+2]
			i++
		case c == '"':
			quoted = !quoted
			*last += `"`
		case c == ' ' && !quoted:
			words = append(words, "")
		case (c == '=' || c == ':') && !quoted:
			if *last != "" && !strings.Contains("=:", *last) {
				words = append(words, "")
			}
			words[len(words)-1] += string(c)
			if i+1 < len(line) && !strings.Contains("=: ", line[i+1:i+2]) {
				words = append(words, "")
			}
		default:
			*last += string(c)
		}
	}
	return words
}

// zsh completes in a terminal, as it does when a tab is typed, and notes what it is
// offered. If that is one word, it is on the line then.
func (d *desk) zsh(line string) []string {
	d.t.Helper()
	dir := d.t.TempDir()
	for name, text := range map[string]string{"typing.zsh": zshTyping, "terminal.zsh": zshTerminal} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
	var words []string
	prefix, completed := "", ""
	for _, answer := range d.lines([]string{"LINE=" + line, "FOLDER=" + dir}, "zsh", "-f", filepath.Join(dir, "terminal.zsh")) {
		what, word, _ := strings.Cut(answer, " ")
		switch what {
		case "prefix":
			prefix = word
		case "word":
			words = append(words, d.withSlash(strings.ReplaceAll(prefix+word, `\ `, " ")))
		case "line":
			completed = word
		}
	}
	if completed == "" {
		d.t.Errorf("zsh did not complete %q", line)
	}
	if len(words) == 1 && !strings.HasPrefix(strings.ReplaceAll(completed, `\ `, " "), strings.ReplaceAll(line, `\ `, " ")) && !strings.Contains(line, `"`) {
		d.t.Errorf("zsh made %q of %q", completed, line)
	}
	return words
}

// zshTerminal is run by a zsh that starts another one in a terminal.
const zshTerminal = `
zmodload zsh/zpty
zpty terminal zsh -f -i
zpty -w terminal "source $FOLDER/typing.zsh"
while zpty -r terminal output; do :; done
cat $FOLDER/answer
`

// zshTyping is what the one in the terminal does: it completes the line as soon as there is
// one to type, and ends.
const zshTyping = `
fpath=($SCRIPTS $fpath)
autoload -Uz compinit
compinit -u -d $HOME/compdump # made once
compadd() {
	local -a hits
	if [[ " $* " != *' -'[OAD]' '* ]]; then
		builtin compadd -A hits "$@"
		local p=${argv[(i)-p]} in_front=$IPREFIX
		(( p < $# )) && in_front+=${argv[p+1]}
		(( $#hits )) && print -r -- "prefix $in_front" && print -rl -- "word "${^hits}
	fi >> $FOLDER/answer
	builtin compadd "$@"
}
zle-line-init() {
	BUFFER=$LINE CURSOR=$#LINE
	zle complete-word
	print -r -- "line $BUFFER" >> $FOLDER/answer
	BUFFER=exit
	zle accept-line
}
zle -N zle-line-init
`
