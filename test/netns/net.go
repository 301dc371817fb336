package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"time"

	"eventspine/internal/fault"
)

const (
	maxPacket = 9001                   // bytes: what the networks of a cloud carry
	patience  = 200 * time.Millisecond // longest wait for a turn where the rate is limited
	wireName  = "wire0"
	tcp, udp  = 6, 17
)

// Net joins machines as a switch does: each is a network namespace with an address of its own,
// and every IP packet between two of them passes this process, where Harm makes it late or lets it
// vanish. Within a machine packets pass nobody. Rerun comes first. It needs /dev/net/tun besides.
// Safe for concurrent use.
type Net struct {
	mu    sync.Mutex
	wires map[netip.Addr]io.ReadWriteCloser
	files []io.Closer // the namespaces
	harms map[string]*harm
	lost  int
	wg    sync.WaitGroup
}

// Machine is a network namespace of a Net. It lasts as long as the Net or a process in it.
type Machine struct {
	Host string // its IPv4 address
	ns   *os.File
}

// Harm is what happens to packets. Several at once add up.
type Harm struct {
	Lose   int           // of a hundred
	Late   time.Duration // of each packet
	Jitter time.Duration // by how much less or more late it is at most; packets overtake each other then
	Rate   int           // bytes a second, all together; what would wait for more than 0.2 s vanishes; 0: no limit
}

// Match says whose packets: from or to the IPv4 address, and with the port at that end, TCP's or
// UDP's. Zero values match all.
type Match struct {
	Host string
	Port int
}

type harm struct {
	Harm
	match []end
	free  time.Time // when the next packet has its turn
}

// end is one end of a connection.
type end struct {
	host netip.Addr
	port int
}

func (m end) fits(e end) bool {
	return (!m.host.IsValid() || m.host == e.host) && (m.port == 0 || m.port == e.port)
}

// NewNet makes a network whose first machine is the namespace of this process. Errors are of kind
// Forbidden outside a namespace that Rerun made, Unavailable where the kernel refuses, and Invalid
// for an address.
func NewNet(ctx context.Context, here string) (*Net, error) {
	n := &Net{wires: map[netip.Addr]io.ReadWriteCloser{}, harms: map[string]*harm{}}
	if err := private(); err != nil {
		return nil, err
	}
	return n, n.plug(ctx, here, nil)
}

// Machine adds a machine with the IPv4 address. Errors are NewNet's.
func (n *Net) Machine(ctx context.Context, host string) (*Machine, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, fault.E("make a network namespace", fault.Unavailable, err)
	}
	n.mu.Lock()
	n.files = append(n.files, ns)
	n.mu.Unlock()
	return &Machine{host, ns}, n.plug(ctx, host, ns)
}

// plug gives the namespace, or with nil that of this process, an address and a wire to the switch.
func (n *Net) plug(ctx context.Context, host string, ns *os.File) error {
	const op = "plug a machine in"
	addr, err := netip.ParseAddr(host)
	if err != nil || !addr.Is4() {
		return fault.Errorf(op, fault.Invalid, "%q is no IPv4 address", host)
	}
	n.mu.Lock()
	_, taken := n.wires[addr]
	n.mu.Unlock()
	if taken {
		return fault.Errorf(op, fault.Invalid, "another machine has %s", host)
	}
	var wire io.ReadWriteCloser
	err = within(ns, func() (err error) {
		if wire, err = newWire(wireName); err != nil {
			return err
		}
		for _, args := range [][]string{
			{"link", "set", "lo", "up"}, {"address", "add", host + "/24", "dev", wireName},
			{"link", "set", wireName, "mtu", "9001", "txqueuelen", "10000", "up"},
		} {
			if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
				return fault.Errorf(op, fault.Unavailable, "ip %v: %w: %s", args, err, out)
			}
		}
		return nil
	})
	if err != nil {
		if wire != nil {
			err = errors.Join(err, wire.Close())
		}
		return fault.E(op, fault.Unavailable, err)
	}
	n.mu.Lock()
	n.wires[addr] = wire
	n.mu.Unlock()
	n.wg.Go(func() { n.carry(wire) })
	return nil
}

// Start is cmd.Start in the machine.
func (m *Machine) Start(cmd *exec.Cmd) error { return within(m.ns, cmd.Start) }

// carry takes what the machine sends until its wire is closed.
func (n *Net) carry(wire io.Reader) {
	buf := make([]byte, maxPacket)
	for {
		size, err := wire.Read(buf)
		if err != nil {
			return
		}
		src, dst, ok := ends(buf[:size])
		if !ok {
			continue // not IPv4
		}
		to, late := n.fate(src, dst, size)
		switch {
		case to == nil: // it vanishes
		case late <= 0:
			_, _ = to.Write(buf[:size]) // a machine that is gone
		default:
			packet := append([]byte(nil), buf[:size]...)
			time.AfterFunc(late, func() { _, _ = to.Write(packet) })
		}
	}
}

// ends reads from an IPv4 packet from where to where it goes.
func ends(p []byte) (src, dst end, ok bool) {
	if len(p) < 20 || p[0]>>4 != 4 {
		return end{}, end{}, false
	}
	src.host, dst.host = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	head := int(p[0]&15) * 4
	if (p[9] == tcp || p[9] == udp) && len(p) >= head+4 {
		src.port, dst.port = int(binary.BigEndian.Uint16(p[head:])), int(binary.BigEndian.Uint16(p[head+2:]))
	}
	return src, dst, true
}

// fate is what becomes of a packet: to whom it goes and how late, or nil.
func (n *Net) fate(src, dst end, size int) (to io.Writer, late time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	wire := n.wires[dst.host]
	if wire == nil {
		return nil, 0
	}
	for _, h := range n.harms {
		if !h.fits(src, dst) {
			continue
		}
		wait, vanishes := h.do(size)
		if vanishes {
			n.lost++
			return nil, 0
		}
		late += wait
	}
	return wire, late
}

func (h *harm) fits(src, dst end) bool {
	for _, m := range h.match {
		if m.fits(src) || m.fits(dst) {
			return true
		}
	}
	return len(h.match) == 0
}

func (h *harm) do(size int) (late time.Duration, vanishes bool) {
	if h.Lose > 0 && rand.IntN(100) < h.Lose {
		return 0, true
	}
	late = h.Late
	if h.Jitter > 0 {
		late += time.Duration(rand.Int64N(2*int64(h.Jitter))) - h.Jitter
	}
	if h.Rate > 0 {
		now := time.Now()
		if h.free.Before(now) {
			h.free = now
		}
		turn := h.free.Sub(now)
		if turn > patience {
			return 0, true
		}
		h.free = h.free.Add(time.Duration(size) * time.Second / time.Duration(h.Rate))
		late += turn
	}
	return late, false
}

// Harm does harm, from now until Heal of the same name, to what one of the matches fits; without a
// match to every packet. Harm of a name replaces what it did before. Errors are of kind Invalid.
func (n *Net) Harm(name string, h Harm, match ...Match) error {
	const op = "do harm to packets"
	if h.Lose < 0 || h.Lose > 100 || h.Late < 0 || h.Jitter < 0 || h.Jitter > h.Late || h.Rate < 0 {
		return fault.Errorf(op, fault.Invalid, "%+v makes no sense", h)
	}
	done := &harm{Harm: h}
	for _, m := range match {
		e := end{port: m.Port}
		if m.Host != "" {
			var err error
			if e.host, err = netip.ParseAddr(m.Host); err != nil {
				return fault.E(op, fault.Invalid, err)
			}
		}
		done.match = append(done.match, e)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.harms[name] = done
	return nil
}

// Heal ends the harm of that name.
func (n *Net) Heal(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.harms, name)
}

// Lost is how many packets have vanished by Harm so far.
func (n *Net) Lost() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lost
}

// Close takes the network away, also from processes that still run in its machines.
func (n *Net) Close() error {
	n.mu.Lock()
	var errs []error
	for _, w := range n.wires {
		errs = append(errs, w.Close())
	}
	for _, f := range n.files {
		errs = append(errs, f.Close())
	}
	n.wires, n.files = nil, nil
	n.mu.Unlock()
	n.wg.Wait()
	return errors.Join(errs...)
}
