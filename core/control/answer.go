// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// MaxAnswer bounds an answer, in bytes, its line feed included.
const MaxAnswer = 64 << 10

// Answer is what a server says to a request.
type Answer struct {
	// Code is 0 for success, else what the command exits with.
	Code uint8
	// Text is for the user: on stdout with Code 0, on stderr otherwise. It
	// has no line feed; see [Answer.String] for what becomes of one.
	Text string
}

// Answers that the server gives by itself.
var (
	missingCommand = Answer{Code: 9, Text: "missing command"}
	unknownCommand = Answer{Code: 10, Text: "unknown command"}
)

// oneLine makes a text of several lines, which an error from elsewhere may
// be, one line.
var oneLine = strings.NewReplacer("\n", " ", "\r", " ", "\x00", " ")

// String is the answer as it is sent, without the line feed at its end. Line
// feeds, carriage returns and NULs in the text become spaces, and what does
// not fit MaxAnswer is cut.
func (a Answer) String() string {
	text := fmt.Sprintf("%d: %s", a.Code, oneLine.Replace(a.Text))
	return text[:min(len(text), MaxAnswer-1)]
}

var errGarbage = errors.New("that is no answer of a control socket")

// readAnswer reads one line of the form "N: text".
func readAnswer(r io.Reader) (Answer, error) {
	line, err := bufio.NewReader(io.LimitReader(r, MaxAnswer)).ReadString('\n')
	switch {
	case err == nil:
		return parseAnswer(strings.TrimSuffix(line, "\n"))
	case !errors.Is(err, io.EOF):
		return Answer{}, err
	case line == "":
		return Answer{}, fmt.Errorf("the server ended, or was stopped, before it answered: %w", io.ErrUnexpectedEOF)
	}
	return Answer{}, fmt.Errorf("%w: %q has no end", errGarbage, line[:min(len(line), 80)])
}

func parseAnswer(line string) (Answer, error) {
	number, text, found := strings.Cut(line, ": ")
	code, err := strconv.ParseUint(number, 10, 8)
	canonical := err == nil && strconv.FormatUint(code, 10) == number
	if !found || !canonical || strings.ContainsAny(text, "\n\r\x00") {
		return Answer{}, fmt.Errorf("%w: %q", errGarbage, line[:min(len(line), 80)])
	}
	return Answer{Code: uint8(code), Text: text}, nil
}
