package zmq

import (
	"errors"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/zmq/zmtp"
)

const (
	tenth      = 100 * time.Millisecond // the unit of a PING's time to live
	stillThere = 100 * time.Millisecond // between signs of life while we do not read
)

var errSilent = fault.E("zmq", fault.Unavailable, errors.New("peer gave no sign of life"))

// promise is a peer's word to be heard of again in time.
type promise struct {
	heard uint64 // how much was heard when it was given
	timer *time.Timer
}

// startBeat runs beat beside the reader and the writer; the channel is closed when it ended.
func (p *peer) startBeat() <-chan struct{} {
	ended := make(chan struct{})
	if p.s.opt.HeartbeatInterval <= 0 || !p.conn.Modern {
		close(ended)
		return ended
	}
	go func() {
		defer close(ended)
		p.abort(p.beat())
	}()
	return ended
}

// beat sends PINGs until the connection ends, or nothing was heard for the time-out after one.
// Silence does not count while our own full queue keeps us from hearing.
func (p *peer) beat() error {
	ping := zmtp.EncodePing(uint16((p.s.opt.HeartbeatTTL + tenth - 1) / tenth))
	t := time.NewTicker(p.s.opt.HeartbeatInterval)
	defer t.Stop()
	var asked time.Time // the oldest PING that nothing was heard after
	heard := p.heard.Load()
	for {
		select {
		case <-p.gone:
			return nil
		case now := <-t.C:
			if n := p.heard.Load(); n != heard || p.s.in.stalled(p) {
				heard, asked = n, time.Time{}
			}
			if asked.IsZero() {
				asked = now
			} else if now.Sub(asked) >= p.s.opt.HeartbeatTimeout {
				return errSilent
			}
			p.s.mu.Lock()
			p.ping = ping
			p.rouse()
			p.s.mu.Unlock()
		}
	}
}

// answer sends the PONG for a PING and holds the peer to its time to live, if it gives one.
func (p *peer) answer(ping *zmtp.Command) error {
	pong, err := zmtp.PongFor(ping)
	if err != nil {
		return err
	}
	if ttl := time.Duration(zmtp.TTL(ping)) * tenth; ttl > 0 {
		p.hold(ttl)
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.pings = true
	p.pong = pong
	p.rouse()
	return nil
}

// reassure sends a PONG that nobody asked for to a peer that sends PINGs, which we do not read
// while its receive queue is full: it shall take us for slow, not for dead.
func (p *peer) reassure() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.pings && p.pong == nil {
		p.pong = zmtp.EncodeCommand(zmtp.Pong, nil)
		p.rouse()
	}
}

// hold gives the connection up when nothing more is heard within ttl. Only the reader calls it.
func (p *peer) hold(ttl time.Duration) {
	if old := p.owed; old != nil {
		old.timer.Stop()
	}
	now := &promise{heard: p.heard.Load()}
	now.timer = time.AfterFunc(ttl, func() {
		if p.heard.Load() == now.heard && !p.s.in.stalled(p) {
			p.abort(errSilent)
		}
	})
	p.owed = now
}

// release ends what hold began, after the reader has ended.
func (p *peer) release() {
	if p.owed != nil {
		p.owed.timer.Stop()
	}
}
