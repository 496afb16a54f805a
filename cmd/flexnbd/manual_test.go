// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jessevdk/go-flags"
)

// The manual page has each option of each verb where that verb is explained, under all of
// its names, and no other.
func TestManualHasEveryOption(t *testing.T) {
	page, err := os.ReadFile("../../docs/flexnbd.1")
	if err != nil {
		t.Fatal(err)
	}
	manual := optionsInManual(string(page))
	common := manual["OPTIONS"]
	checked := 0
	root := newParser(&app{}).Command
	all := []*flags.Command{root}
	for _, verb := range root.Commands() {
		all = append(append(all, verb), verb.Commands()...)
	}
	for _, verb := range all {
		// Where it is explained: in its own section, where that says whose options it has as
		// well, and for each of the verbs of plugin in theirs.
		sections := [][]string{manual[verb.Name], common}
		switch {
		case verb == root:
			sections = [][]string{common}
		case root.Find("plugin").Find(verb.Name) == verb:
			sections = [][]string{manual["plugin "+verb.Name], manual["plugin"], common}
		case verb.Name == "listen":
			sections = append(sections, manual["serve"])
		}
		documented := slices.Concat(sections...)
		var names []string
		for _, group := range allGroups(verb.Group) {
			for _, o := range group.Options() {
				for _, name := range []string{o.LongName, strings.Trim(string(o.ShortName), "\x00")} {
					if name == "" {
						continue
					}
					names = append(names, name)
					checked++
					if !slices.Contains(documented, name) {
						t.Errorf("%q has the option %q, of which docs/flexnbd.1 says nothing there", verb.Name, name)
					}
				}
			}
		}
		for _, name := range sections[0] {
			if len(verb.Commands()) == 0 && !slices.Contains(names, name) {
				t.Errorf("docs/flexnbd.1 has an option %q with %q, which has none", name, verb.Name)
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d names of options were looked at", checked)
	}
}

var (
	manualSection = regexp.MustCompile(`^\.(?:Sh|Ss) (.*)$`)
	manualVerb    = regexp.MustCompile(`^\.It Cm (plugin [a-z]+)`)
	manualOption  = regexp.MustCompile(`(?:^\.It|,) Fl (-?)([a-zA-Z-]+)`)
)

// optionsInManual returns the options in each section's lists, without dashes.
func optionsInManual(page string) map[string][]string {
	options := map[string][]string{}
	section := ""
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		if m := manualSection.FindStringSubmatch(line); m != nil {
			section = m[1]
		}
		if m := manualVerb.FindStringSubmatch(line); m != nil {
			section = m[1]
		}
		if !strings.HasPrefix(line, ".It Fl ") {
			continue
		}
		for _, m := range manualOption.FindAllStringSubmatch(line, -1) {
			options[section] = append(options[section], m[2])
		}
	}
	return options
}
