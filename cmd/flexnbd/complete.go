// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"cmp"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/jessevdk/go-flags"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// completeVerb is what the shells' scripts in packaging/completions ask: the words behind
// it are those of a command line, without its first one and up to the cursor. It is not
// for people, and go-flags does not know it: its own completion knows neither choices
// nor what stands elsewhere on the line.
//
// The answer's first line is what to complete, "words", "files" or "directories", a tab,
// and what of the last word is in front of that. Each further line is a whole last
// word, a tab, and what it means. Nothing is ever started or opened for it but folders of
// plugins, and whatever is wrong, there is nothing to complete.
const completeVerb = "complete-words"

// complete answers completeVerb.
func complete(words []string, stdout io.Writer) {
	if len(words) == 0 {
		words = []string{""}
	}
	root := newParser(&app{stdout: io.Discard, stderr: io.Discard}).Command
	completionOf(root, words).print(stdout)
}

// completion is what a word can become.
type completion struct {
	what   string // "words", "files" or "directories"
	prefix string // of the word, which comes before a file's name
	items  []completionItem
}

type completionItem struct{ word, meaning string }

func (c completion) print(w io.Writer) {
	_, _ = fmt.Fprintf(w, "%s\t%s\n", c.what, c.prefix)
	slices.SortFunc(c.items, func(a, b completionItem) int { return cmp.Compare(a.word, b.word) })
	for _, item := range c.items {
		_, _ = fmt.Fprintf(w, "%s\t%s\n", item.word, item.meaning)
	}
}

// with adds those items that begin with the word.
func (c completion) with(word string, items ...completionItem) completion {
	for _, item := range items {
		item.word = c.prefix + item.word
		if strings.HasPrefix(item.word, word) {
			c.items = append(c.items, item)
		}
	}
	return c
}

// completionOf reads the words as the parser would, and says what the last one can be.
func completionOf(root *flags.Command, words []string) completion {
	line := commandLine{root: root, command: root}
	before, last := words[:len(words)-1], words[len(words)-1]
	for _, word := range before {
		line.read(word)
	}
	nothing := completion{what: "words"}
	name, value, joined := strings.Cut(last, "=")
	switch {
	case line.waiting != nil:
		return line.value(line.waiting, "", last)
	case line.rest, !strings.HasPrefix(last, "-"):
		return line.argument(last)
	case strings.HasPrefix(last, "--") && joined:
		if o := line.command.FindOptionByLongName(name[2:]); o != nil && takesValue(o) {
			return line.value(o, name+"=", value)
		}
		return nothing
	case !strings.HasPrefix(last, "--") && len(last) > 2:
		o, value := line.short(last[1:])
		if o == nil || value == "" {
			return nothing.with(last, completionItem{word: last})
		}
		return line.value(o, strings.TrimSuffix(last, value), value)
	}
	return nothing.with(last, line.options()...)
}

// commandLine is what has been read of one.
type commandLine struct {
	root       *flags.Command // which has the verbs and the global options
	command    *flags.Command // the verb
	arguments  []string       // what is neither a verb nor an option
	waiting    *flags.Option  // its value comes next
	rest       bool           // after --, everything is an argument
	pluginDirs []string       // --plugin-dir
}

func (l *commandLine) read(word string) {
	if o := l.waiting; o != nil {
		l.note(o, word)
		l.waiting = nil
		return
	}
	verb := l.command.Find(word)
	switch {
	case l.rest, !strings.HasPrefix(word, "-") && (verb == nil || len(l.arguments) > 0), word == "-":
		l.arguments = append(l.arguments, word)
	case verb != nil:
		l.command = verb
	case word == "--":
		l.rest = true
	case strings.HasPrefix(word, "--"):
		name, value, joined := strings.Cut(word[2:], "=")
		o := l.command.FindOptionByLongName(name)
		switch {
		case o == nil || !takesValue(o):
		case joined:
			l.note(o, value)
		case !o.OptionalArgument:
			l.waiting = o
		}
	default:
		if o, value := l.short(word[1:]); o != nil && value == "" && !o.OptionalArgument {
			l.waiting = o
		}
	}
}

func (l *commandLine) note(o *flags.Option, value string) {
	if o.LongName == "plugin-dir" {
		l.pluginDirs = append(l.pluginDirs, value)
	}
}

// short finds the option in letters that takes a value, and what of it is there already.
func (l *commandLine) short(letters string) (o *flags.Option, value string) {
	for i, letter := range letters {
		o := l.command.FindOptionByShortName(letter)
		if o == nil {
			return nil, ""
		}
		if takesValue(o) {
			return o, letters[i+len(string(letter)):]
		}
	}
	return nil, ""
}

func takesValue(o *flags.Option) bool {
	t := o.Field().Type
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() != reflect.Bool && (t.Kind() != reflect.Func || t.NumIn() > 0)
}

// options are those of the verb and the global ones, by their long names.
func (l *commandLine) options() []completionItem {
	items := []completionItem{{"--help", "Show this help message"}}
	seen := map[string]bool{}
	for _, command := range []*flags.Command{l.command, l.root} {
		for _, group := range allGroups(command.Group) {
			for _, o := range group.Options() {
				if o.LongName != "" && !o.Hidden && !seen[o.LongName] {
					seen[o.LongName] = true
					items = append(items, completionItem{"--" + o.LongName, o.Description})
				}
			}
		}
	}
	return items
}

func allGroups(g *flags.Group) []*flags.Group {
	groups := []*flags.Group{g}
	for _, below := range g.Groups() {
		groups = append(groups, allGroups(below)...)
	}
	return groups
}

// value completes the value of an option, which the placeholder in its help tells the
// kind of. prefix is what of the word is in front of it.
func (l *commandLine) value(o *flags.Option, prefix, value string) completion {
	words := completion{what: "words", prefix: prefix}
	switch {
	case len(o.Choices) > 0:
		for _, choice := range o.Choices {
			words = words.with(prefix+value, completionItem{word: choice})
		}
	case o.ValueName == "DIR":
		return completion{what: "directories", prefix: prefix}
	case slices.Contains([]string{"FILE", "SOCK", "LOCATION"}, o.ValueName):
		return completion{what: "files", prefix: prefix}
	case strings.HasSuffix(o.ValueName, "ADDR") && isPath(value): // of a Unix socket
		return completion{what: "files", prefix: prefix}
	case o.LongName == "backend":
		return l.plugin(prefix, value, wire.KindBackend)
	case o.LongName == "transport":
		return l.plugin(prefix, value, wire.KindTransport)
	}
	return words
}

// argument completes what is no option.
func (l *commandLine) argument(word string) completion {
	words := completion{what: "words"}
	command := l.command
	if command.Name == "help" {
		// Its arguments are a verb, or two.
		command = l.root
		for _, verb := range l.arguments {
			if command = command.Find(verb); command == nil {
				return words
			}
		}
	}
	if len(command.Commands()) > 0 {
		if command == l.command && len(l.arguments) > 0 {
			return words
		}
		for _, verb := range command.Commands() {
			words = words.with(word, completionItem{verb.Name, verb.ShortDescription})
		}
		return words
	}
	args := l.command.Args()
	if command != l.command || len(args) == 0 {
		return words
	}
	arg := args[min(len(l.arguments), len(args)-1)]
	many := l.command.Name == "verify"
	switch {
	case len(l.arguments) >= len(args) && !many:
		return words
	case arg.Name == "BUNDLE", arg.Name == "BINARY":
		return completion{what: "files"}
	case strings.HasPrefix(arg.Name, "PLUGIN"), strings.HasPrefix(arg.Name, "BINARY"):
		return l.plugin("", word, wire.KindBackend, wire.KindTransport)
	}
	return words
}

// plugin completes a plugin's name or path, and paths in its options. Which options it
// has, only the plugin can say, and it is not started for that.
func (l *commandLine) plugin(prefix, value string, kinds ...wire.Kind) completion {
	if _, option, options := cutLast(value, ","); options {
		key, path, given := strings.Cut(option, "=")
		if given && isPath(path) {
			return completion{what: "files", prefix: prefix + strings.TrimSuffix(value, option) + key + "="}
		}
		return completion{what: "words", prefix: prefix}
	}
	if isPath(value) {
		return completion{what: "files", prefix: prefix}
	}
	words := completion{what: "words", prefix: prefix}
	finder, err := pluginOptions{PluginDir: l.pluginDirs}.finder()
	if err != nil {
		return words
	}
	found, _ := finder.List()
	for _, p := range found {
		if !slices.Contains(kinds, p.Kind) || p.Problem != nil {
			continue
		}
		meaning := "a " + p.Kind.String() + ", in " + p.Path
		if p.Path == "builtin" {
			meaning = "a " + p.Kind.String() + ", inside flexnbd"
			// Only for who begins with it: it is the same plugin mostly.
			if value != "" {
				words = words.with(prefix+value, completionItem{"builtin:" + p.Name, meaning})
			}
		}
		if p.ShadowedBy == "" {
			words = words.with(prefix+value, completionItem{p.Name, meaning})
		}
	}
	return words
}

// isPath tells a path from a name or an address.
func isPath(s string) bool {
	return strings.Contains(s, "/") || strings.HasPrefix(s, "~") || s == "." || s == ".."
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
