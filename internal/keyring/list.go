package keyring

import (
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"eventspine/internal/fault"
	"eventspine/internal/zmq/curve"
)

// Peer is one line of a list.
type Peer struct {
	Name      string // 1 to 64 letters, digits, '.', '_' and '-', the first a letter or a digit
	Key       curve.Key
	Addresses []string // where it listens: host, host:port, or a whole endpoint
}

// Line is the peer as a line of a list, without the line's end.
func (p Peer) Line() string {
	return strings.TrimRight(p.Name+"\t"+p.Key.Z85()+"\t"+strings.Join(p.Addresses, " "), "\t")
}

var (
	goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	goodHost = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,252}[A-Za-z0-9_])?\.?$`)
)

// Parse reads a list. No name, key and address may stand in it twice. The error is Invalid, names
// the line and repeats no key of it.
func Parse(text string) ([]Peer, error) {
	var peers []Peer
	names, keys, places := map[string]bool{}, map[curve.Key]string{}, map[string]string{}
	for n, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		wrong := func(format string, args ...any) error {
			return fault.Errorf("line "+strconv.Itoa(n+1), fault.Invalid, format, args...)
		}
		p, err := parseLine(fields)
		switch {
		case err != nil:
			return nil, wrong("%w", err)
		case names[p.Name]:
			return nil, wrong("the name %s is there twice", p.Name)
		case keys[p.Key] != "":
			return nil, wrong("%s has the key of %s", p.Name, keys[p.Key])
		}
		for _, a := range p.Addresses {
			if places[a] != "" {
				return nil, wrong("the address %s is there twice, of %s and of %s", a, places[a], p.Name)
			}
			places[a] = p.Name
		}
		names[p.Name], keys[p.Key] = true, p.Name
		peers = append(peers, p)
	}
	return peers, nil
}

func parseLine(fields []string) (Peer, error) {
	if err := CheckName(fields[0]); err != nil {
		return Peer{}, err
	}
	p := Peer{Name: fields[0]}
	if len(fields) == 1 {
		return Peer{}, fault.Errorf("", fault.Invalid, "%s has no public key", p.Name)
	}
	key, err := curve.ParseKey(fields[1])
	if err != nil || key.IsZero() {
		return Peer{}, fault.Errorf("", fault.Invalid, "the public key of %s is not the 40 characters of Z85 that a key has", p.Name)
	}
	p.Key = key
	for _, a := range fields[2:] {
		if strings.HasPrefix(a, "#") {
			break
		}
		place, err := Address(a)
		if err != nil {
			return Peer{}, err
		}
		p.Addresses = append(p.Addresses, place)
	}
	return p, nil
}

// CheckName says why a name cannot be a peer's; the error is Invalid.
func CheckName(name string) error {
	if !goodName.MatchString(name) {
		return fault.Errorf("", fault.Invalid, "a peer's name has 1 to 64 letters, digits, '.', '_' and '-', and begins with a letter or a digit")
	}
	return nil
}

// Address is an address of a list in the one form in which addresses are compared: host or
// host:port, an IP address in its canonical form, and a whole endpoint only for other transports
// than tcp. The error is Invalid.
func Address(text string) (string, error) {
	wrong := fault.Errorf("", fault.Invalid, "%q is neither a host, nor host:port, nor an endpoint of one place", text)
	scheme, rest, whole := strings.Cut(text, "://")
	switch {
	case !whole:
		rest = text
	case (scheme == "ipc" || scheme == "inproc") && rest != "" && rest != "*":
		return text, nil
	case scheme != "tcp":
		return "", wrong
	}
	if host := canonical(strings.TrimSuffix(strings.TrimPrefix(rest, "["), "]")); host != "" {
		return host, nil
	}
	host, port, err := net.SplitHostPort(rest)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || canonical(host) == "" {
		return "", wrong
	}
	return net.JoinHostPort(canonical(host), port), nil
}

// canonical is the host in the form in which hosts are compared; empty when it is none or not one place.
func canonical(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.IsUnspecified() {
			return ""
		}
		return ip.Unmap().String()
	}
	if !goodHost.MatchString(host) {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
