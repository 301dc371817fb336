package doctor

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"eventspine/internal/config"
)

// binds are the addresses that a service listens at, each with the setting that says so.
func binds(settings []config.Setting) (all []place) {
	port := ""
	for _, s := range settings {
		if s.Name == "PORT" {
			port = s.Value
		}
	}
	for _, s := range settings {
		if !s.Bind || s.Value == "" {
			continue
		}
		for _, at := range strings.Split(s.Value, ",") {
			scheme, rest, ok := strings.Cut(strings.TrimSpace(at), "://")
			if !ok {
				rest = scheme
			} else if scheme != "tcp" {
				continue
			}
			host, p, err := net.SplitHostPort(rest)
			if err != nil {
				host, p = strings.Trim(rest, "[]"), port
			} else if s.Name == "BRIDGE_ADDR" && port != "0" && port != "" {
				p = port
			}
			all = append(all, place{s.Name, host, p})
		}
	}
	return all
}

type place struct{ setting, host, port string }

// listening looks whether each place can be, or is, the service's.
func (n *notes) listening(ctx context.Context, s *Service, places []place) {
	own, err := net.InterfaceAddrs()
	if err != nil {
		n.warn("", "the addresses of this machine are not known: %v", err)
	}
	listeners := listeners()
	for _, p := range places {
		at := net.JoinHostPort(p.host, p.port)
		if !isOwn(ctx, own, p.host) {
			n.fail("give "+p.setting+" an address of this machine: "+list(own), "%s is %s, which is no address of this machine", p.setting, at)
			continue
		}
		who, taken := holder(listeners, p)
		switch {
		case !taken && s.State == "active":
			n.fail("systemctl restart "+s.Unit, "%s runs, and nobody listens at %s (%s)", s.Unit, at, p.setting)
		case taken && !who.is(s):
			n.fail(fmt.Sprintf("stop it, or give %s another port", p.setting), "%s is %s, where %s listens already", p.setting, at, who)
		default:
			n.fine("%s: %s", p.setting, at)
		}
	}
}

func isOwn(ctx context.Context, own []net.Addr, host string) bool {
	ip := net.ParseIP(host)
	if ip == nil {
		names, err := net.DefaultResolver.LookupIPAddr(ctx, host)
		if err != nil || len(names) == 0 {
			return false
		}
		ip = names[0].IP
	}
	return ip.IsUnspecified() || ip.IsLoopback() || slices.ContainsFunc(own, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(ip)
	})
}

func list(own []net.Addr) string {
	var all []string
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			all = append(all, n.IP.String())
		}
	}
	return strings.Join(all, ", ")
}

// socket is one listening TCP socket of this machine.
type socket struct {
	at    netip.AddrPort
	inode string
}

// listeners reads the kernel's tables; nothing where there are none.
func listeners() (all []socket) {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			const listen = "0A"
			if len(f) < 10 || f[3] != listen {
				continue
			}
			if at, err := kernelAddress(f[1]); err == nil {
				all = append(all, socket{at, f[9]})
			}
		}
	}
	return all
}

// kernelAddress reads an address as the kernel prints it: words in the machine's byte order, here
// little-endian, and the port.
func kernelAddress(text string) (netip.AddrPort, error) {
	host, port, ok := strings.Cut(text, ":")
	b, err := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || err2 != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, errors.New("no address")
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	ip, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}, errors.New("no address")
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), nil
}

// owner is the process that holds a socket; the zero owner is one that may not be known.
type owner struct {
	pid    int
	comm   string
	cgroup string
}

func (o owner) String() string {
	if o.pid == 0 {
		return "another process"
	}
	return fmt.Sprintf("%s (process %d)", o.comm, o.pid)
}

// is reports whether the owner is this service, as far as can be told.
func (o owner) is(s *Service) bool {
	if o.pid == 0 {
		return s.Unit == "" || s.State == "active"
	}
	if s.Unit == "" {
		return o.comm == s.Name
	}
	return strings.Contains(o.cgroup, s.Unit)
}

func holder(all []socket, p place) (owner, bool) {
	ip, err := netip.ParseAddr(p.host)
	port, err2 := strconv.ParseUint(p.port, 10, 16)
	if err != nil || err2 != nil || port == 0 {
		return owner{}, false
	}
	for _, s := range all {
		if s.at.Port() == uint16(port) && (s.at.Addr() == ip || s.at.Addr().IsUnspecified()) {
			return ownerOf(s.inode), true
		}
	}
	return owner{}, false
}

func ownerOf(inode string) owner {
	want := "socket:[" + inode + "]"
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return owner{}
	}
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err != nil || link != want {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		pid, _ := strconv.Atoi(filepath.Base(dir))
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		return owner{pid, string(bytes.TrimSpace(comm)), string(cgroup)}
	}
	return owner{}
}
