// SPDX-License-Identifier: GPL-3.0-or-later

package owner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// version of the files. It rises with every field that is added: a release
	// that does not know a field cannot know what it would change.
	version = 1
	// maxRecord is how much of a file is read at most, in bytes.
	maxRecord = 64 << 10
	// maxAddresses is how many a departure has at most.
	maxAddresses = 16
	// maxYear is the last that a time in a record may have, as in JSON.
	maxYear = 9999
)

// The two kinds of file. A rename turns .INCOMPLETE into .RECEIVED and
// .MIGRATED.next into .MIGRATED, so what is in the file must be right for both
// names, and says itself whose it is.
const (
	kindDestination = "destination"
	kindSource      = "source"
)

// destinationFile is .INCOMPLETE and .RECEIVED.
type destinationFile struct {
	Version  int       `json:"version"`
	Kind     string    `json:"kind"`
	Prepared *ID       `json:"prepared,omitempty"`
	Touched  bool      `json:"touched,omitempty"`
	Written  time.Time `json:"written"`
}

// sourceFile is .MIGRATED.next and .MIGRATED.
type sourceFile struct {
	Version      int       `json:"version"`
	Kind         string    `json:"kind"`
	ID           ID        `json:"id"`
	To           []Address `json:"to"`
	From         Address   `json:"from,omitzero"`
	Unlink       bool      `json:"unlink"`
	Unconfirmed  bool      `json:"unconfirmed"`
	Acknowledged bool      `json:"acknowledged"`
	Written      time.Time `json:"written"`
}

func (i Incomplete) encode() []byte {
	f := destinationFile{Version: version, Kind: kindDestination, Touched: i.Touched, Written: i.Written}
	if !i.Prepared.IsZero() {
		f.Prepared = &i.Prepared
	}
	return encode(f)
}

func (d Departure) encode() []byte {
	return encode(sourceFile{version, kindSource, d.ID, d.To, d.From, d.Unlink, d.Unconfirmed, d.Acknowledged, d.Written})
}

func encode(file any) []byte {
	data, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		panic(err) // no value of these types has no JSON: times are checked or our own
	}
	return append(data, '\n')
}

func decodeIncomplete(data []byte) (*Incomplete, error) {
	var f destinationFile
	if err := decode(data, kindDestination, &f); err != nil {
		return nil, err
	}
	i := &Incomplete{Touched: f.Touched, Written: f.Written}
	if f.Prepared != nil {
		i.Prepared = *f.Prepared
	}
	return i, checkTime(f.Written)
}

func decodeReceived(data []byte) (*Received, error) {
	i, err := decodeIncomplete(data)
	if err != nil {
		return nil, err
	}
	if i.Prepared.IsZero() {
		return nil, errors.New("it does not say which migration was received")
	}
	return &Received{ID: i.Prepared, Written: i.Written}, nil
}

func decodeDeparture(data []byte) (*Departure, error) {
	var f sourceFile
	if err := decode(data, kindSource, &f); err != nil {
		return nil, err
	}
	d := &Departure{f.ID, f.To, f.From, f.Unlink, f.Unconfirmed, f.Acknowledged, f.Written}
	return d, errors.Join(d.check(), checkTime(f.Written))
}

func (d *Departure) check() error {
	switch {
	case d.ID.IsZero():
		return errors.New("there is no migration id in it")
	case len(d.To) == 0 || len(d.To) > maxAddresses:
		return fmt.Errorf("%d addresses of the new owner are in it: 1 to %d are allowed", len(d.To), maxAddresses)
	}
	for _, a := range d.To {
		if err := a.check(); err != nil {
			return err
		}
	}
	return d.From.checkFrom()
}

func checkTime(t time.Time) error {
	if y := t.Year(); t.IsZero() || y > maxYear {
		return errors.New("there is no time in it")
	}
	return nil
}

// decode reads one object: nothing behind it, no field twice or in another case or
// unknown. The version is looked at first, since it decides what else may be there.
func decode(data []byte, kind string, into any) error {
	var head struct {
		Version int    `json:"version"`
		Kind    string `json:"kind"`
	}
	if err := checkKeys(data); err != nil {
		return err
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("not what flexnbd writes: %w", err)
	}
	switch {
	case head.Version == 0:
		return errors.New("there is no version in it")
	case head.Version != version:
		return fmt.Errorf("it is of version %d, and this flexnbd knows version %d only: use the flexnbd that wrote it, or a newer one",
			head.Version, version)
	case head.Kind != kind:
		return fmt.Errorf("it is a record of a migration's %.32q, under the name of one of its %q", head.Kind, kind)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("not what flexnbd writes: %w", err)
	}
	return nil
}

// checkKeys wants one JSON object whose keys, at every depth, are of the letters a
// to z and there once: encoding/json would take "ID" for "id", and the last of two.
func checkKeys(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	first, err := d.Token()
	if err != nil || first != json.Delim('{') {
		return errors.New("not a JSON object")
	}
	if err := checkObject(d); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more in it than one JSON object")
	}
	return nil
}

func checkObject(d *json.Decoder) error {
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		key, ok := token.(string)
		switch {
		case err != nil || !ok:
			return fmt.Errorf("not JSON: %w", err)
		case !plainKey(key):
			return fmt.Errorf("unknown field %.32q", key)
		case seen[key]:
			return fmt.Errorf("field %.32q is there twice", key)
		}
		seen[key] = true
		if err := checkValue(d); err != nil {
			return err
		}
	}
	return closing(d)
}

func checkValue(d *json.Decoder) error {
	token, err := d.Token()
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	switch token {
	case json.Delim('{'):
		return checkObject(d)
	case json.Delim('['):
		for d.More() {
			if err := checkValue(d); err != nil {
				return err
			}
		}
		return closing(d)
	}
	return nil
}

func closing(d *json.Decoder) error {
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	return nil
}

func plainKey(key string) bool {
	for i := range len(key) {
		if key[i] < 'a' || key[i] > 'z' {
			return false
		}
	}
	return key != ""
}
