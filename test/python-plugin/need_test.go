// SPDX-License-Identifier: GPL-3.0-or-later

package pythonplugin

import (
	"errors"
	"fmt"
	"os/exec"
)

// needs are commands that succeed where a Debian package is installed.
var needs = map[string][]string{
	"libnbd-bin":        {"nbdcopy", "--version"},
	"protobuf-compiler": {"protoc", "--version"},
	"python3-grpcio":    {"/usr/bin/python3", "-c", "import grpc"},
	"python3-protobuf":  {"/usr/bin/python3", "-c", "import google.protobuf"},
	"qemu-utils":        {"qemu-io", "--version"},
}

// installed returns an error that says what to install.
func installed() error {
	var errs []error
	for pkg, command := range needs {
		if err := exec.Command(command[0], command[1:]...).Run(); err != nil {
			errs = append(errs, fmt.Errorf("%q: %w; apt-get install %s", command, err, pkg))
		}
	}
	return errors.Join(errs...)
}
