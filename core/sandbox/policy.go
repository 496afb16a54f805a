// SPDX-License-Identifier: GPL-3.0-or-later

package sandbox

// Policy is what a process may still do. The zero Policy is the strictest: it computes,
// and uses what is open.
type Policy struct {
	// Paths are the files and folders that may be opened. One that does not exist is
	// passed over, so that whoever needs it finds out in its own words.
	Paths []Path `json:"paths,omitempty"`
	// Internet allows sockets of the Internet's families. Unix sockets always are, and
	// a Unix socket that has a path can always be connected to, if its mode allows it.
	Internet bool `json:"internet,omitempty"`
	// Programs allows to start processes and to execute programs that a path allows.
	Programs bool `json:"programs,omitempty"`
	// Signals allows signals to other processes.
	Signals bool `json:"signals,omitempty"`
	// Abstract allows connections to Unix sockets of others that have no path.
	Abstract bool `json:"abstract,omitempty"`
	// Modes allows to change the mode of what is open, a new socket above all, and clears
	// the umask, since a bound socket's mode can't be changed in that way.
	Modes bool `json:"modes,omitempty"`
	// Capabilities are kept if the process has them. nil keeps none.
	Capabilities []Capability `json:"capabilities,omitempty"`
	// Descriptors is the most that may be open at a time; 0 leaves the limit alone.
	Descriptors uint64 `json:"descriptors,omitempty"`
	// Memory is the most private memory that may be written to, in bytes; 0 leaves the
	// limit alone.
	Memory uint64 `json:"memory,omitempty"`
}

// Path is a file or a folder, and what may be done with it, or with what is below it.
type Path struct {
	Path   string `json:"path"`
	Access Access `json:"access"`
}

// Access is what may be done with a path.
type Access string

// The kinds of access.
const (
	Read     Access = "read"      // read files
	Disk     Access = "disk"      // read and write a file or a device, not change a file's size
	DiskRead Access = "disk-read" // read a file or a device
	Records  Access = "records"   // make, read, write and remove regular files
	Sockets  Access = "sockets"   // make and remove sockets
	Remove   Access = "remove"    // remove files
	Private  Access = "private"   // make, read, write and remove files and sockets: a folder of the process's own
	Folders  Access = "folders"   // make and remove folders, and remove files
	Execute  Access = "execute"   // read and execute files
)

// Capability is a right of root's, by its number in capabilities(7).
type Capability uintptr

// The capabilities that parts of flexnbd keep.
const (
	DACOverride    Capability = 1  // CAP_DAC_OVERRIDE: files of other users
	FOwner         Capability = 3  // CAP_FOWNER: remove them where /tmp's rule holds
	SetGID         Capability = 6  // CAP_SETGID
	SetUID         Capability = 7  // CAP_SETUID
	NetBindService Capability = 10 // CAP_NET_BIND_SERVICE: ports below 1024
)

// Report is what Enter found.
type Report struct {
	Landlock int  // the ABI that the kernel has, or 0
	Seccomp  bool // the kernel has it
}
