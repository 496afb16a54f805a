// SPDX-License-Identifier: GPL-3.0-or-later

package owner

import (
	"fmt"
	"strings"
	"time"
)

const rule = "The rule: of all copies of a disk, the right one is the image with neither .INCOMPLETE nor " +
	".MIGRATED beside it. If there is none, follow the .MIGRATED records to their end: each names the machine " +
	"that the disk went to. Never serve two copies."

// Explain says, for an operator, which records there are, what each of them means,
// which copy of the disk is the right one and what to run next. It has several
// lines, without a line feed at the end.
func (s State) Explain(place Place) string {
	var b strings.Builder
	s.explainRecords(&b, place)
	b.WriteString(s.meaning() + "\n\n" + rule + "\n\n" + s.advice())
	return b.String()
}

func (s State) explainRecords(b *strings.Builder, place Place) {
	if s.IsEmpty() {
		fmt.Fprintf(b, "There are no migration records at %s.\n\n", place)
		return
	}
	if i := s.Incomplete; i != nil {
		what := "this copy is the destination of a migration that has not ended, and what it holds may be torn"
		if !i.Prepared.IsZero() {
			what = fmt.Sprintf("this copy holds all of migration %v, and waits to be told that it is the right one", i.Prepared)
		}
		line(b, place.Incomplete(), what, i.Written)
	}
	if m := s.Migrated; m != nil {
		what := fmt.Sprintf("the disk was given away to %s by migration %v, and ", places(m.To), m.ID)
		switch {
		case m.Acknowledged:
			what += "the new owner has acknowledged it"
		case m.Unconfirmed:
			what += "the server there cannot acknowledge that, so nobody waits for it"
		default:
			what += "the new owner has not acknowledged it yet"
		}
		if m.Unlink {
			what += "; after that this image was to be removed (--unlink)"
		}
		line(b, place.Migrated(), what, m.Written)
	}
	if n := s.Next; n != nil {
		line(b, place.Next(), fmt.Sprintf("a migration to %s was tried, or was made and then overridden with serve --ignore-migrated; "+
			"%v is the id that a copy there may be prepared for", places(n.To), n.ID), n.Written)
	}
	if r := s.Received; r != nil {
		line(b, place.Received(), fmt.Sprintf("migration %v is the last that was taken over here", r.ID), r.Written)
	}
	b.WriteString("\n")
}

func line(b *strings.Builder, path, what string, when time.Time) {
	fmt.Fprintf(b, "%s (%s): %s.\n", path, when.Format("2006-01-02 15:04:05 MST"), what)
}

// meaning is the verdict in a sentence or two.
func (s State) meaning() string {
	switch s.Verdict() {
	case VerdictIncomplete:
		text := "This copy of the disk is not the right one"
		if s.Incomplete.Prepared.IsZero() {
			text += " as far as flexnbd knows, and it may be torn: it is not served."
		} else {
			text += " as long as its source has not given it away: it is not served. It is whole."
		}
		if s.Migrated != nil || s.Received != nil {
			text += " .INCOMPLETE goes before the older records beside it."
		}
		return text
	case VerdictDeparting:
		return "This copy of the disk is not the right one any more: it is never served. " +
			"The new owner may not know yet that it owns the disk, and until it has been told nobody serves it."
	case VerdictDeparted:
		if s.Migrated.Acknowledged {
			return "This copy of the disk is not the right one any more: the right one is at " + home(s.Migrated.To) + "."
		}
		return "This copy of the disk is not the right one any more: the right one should be at " + home(s.Migrated.To) +
			". The server there could not confirm it, so look whether it has the whole disk."
	}
	switch {
	case s.Received != nil:
		return "This copy of the disk is the right one: it was taken over from another server and not given away since." + s.unlessPromoted()
	case s.Next != nil:
		return "This copy of the disk is the right one: a migration was tried, and the disk is still here." + s.unlessPromoted()
	}
	return "As far as flexnbd knows this copy of the disk is the only one: it has not been part of a migration."
}

// unlessPromoted is the one thing that the records here cannot know.
func (s State) unlessPromoted() string {
	if s.Next == nil {
		return ""
	}
	return fmt.Sprintf(" Unless somebody promoted the copy at %s: then .RECEIVED with the id %v is beside that one, "+
		"which is the right one, and this must not be served.", places(s.Next.To), s.Next.ID)
}

// advice says what to run.
func (s State) advice() string {
	switch s.Verdict() {
	case VerdictIncomplete:
		return s.incompleteAdvice()
	case VerdictDeparting:
		return "What to do: start flexnbd with the same command as before, serve or listen, and let it run. It serves nothing, " +
			"tells the new owner (COMMIT) until that answers, and then exits 0 (serve) or waits for a migration (listen). " +
			"Have the new owner running meanwhile: flexnbd listen --or-serve there. " +
			"If it is lost for good before it took over, see the last way out.\n" + ignoreAdvice
	case VerdictDeparted:
		text := "What to do: serve the disk where it went. To bring it back, run flexnbd listen here and flexnbd mirror there; " +
			"listen overwrites this copy."
		if s.Migrated.Unlink {
			text += " If nothing is to come back, remove the image and then the records."
		} else {
			text += " If the disk is to stay there, this image and then its records may be removed."
		}
		return text + "\n" + ignoreAdvice
	}
	if s.IsEmpty() {
		return "What to do: flexnbd serve serves the disk. flexnbd listen waits for a migration, which overwrites it."
	}
	return "What to do: flexnbd serve serves the disk, and so does flexnbd listen --or-serve if it was taken over here (.RECEIVED). " +
		"flexnbd listen alone is refused, since a migration would overwrite the right copy; " +
		"flexnbd listen --overwrite does it nevertheless, after which this copy is lost."
}

func (s State) incompleteAdvice() string {
	text := "What to do: run flexnbd listen (or listen --or-serve, which also serves again after a restart once the disk has been " +
		"taken over), and keep the source running, so that the migration can go on or begin anew. "
	if id := s.Incomplete.Prepared; !id.IsZero() {
		return text + fmt.Sprintf("If the source is lost for good: make sure that it can never serve the disk again "+
			"(power it off, cut its network), then, with flexnbd listen running here, flexnbd promote %v makes this copy "+
			"the right one. If the source lives and serves the disk, promote makes two owners, and writes are lost: "+
			"then let its migration to this server go on; where it does not, since the source has tried another server meanwhile, "+
			"stop flexnbd here, remove .INCOMPLETE and start flexnbd listen again.", id)
	}
	if !s.Incomplete.Touched {
		return text + "No data has been written to this image since .INCOMPLETE was made: if it was the right copy then, and listen was a mistake, " +
			"stop flexnbd, remove .INCOMPLETE, and the image is what it was."
	}
	return text + "If no migration is to come any more, this copy is worth nothing: serve the right one, and remove this image and its records."
}

const ignoreAdvice = "The last way out: flexnbd serve --ignore-migrated serves this copy although it was given away. " +
	"Danger: it is right only if the new owner never took over (no .RECEIVED with this migration's id beside its image, " +
	"and nothing serves it) and never will: fence that machine first. Otherwise there are two owners, " +
	"and what was written at the new one is lost."

// home is where the disk was to be served: the last address, which a destination that
// moves has not listened at before.
func home(to []Address) string { return to[len(to)-1].String() }

func places(to []Address) string {
	texts := make([]string, len(to))
	for i, a := range to {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}
