package zmq

import (
	"context"

	"golang.org/x/sync/errgroup"

	"eventspine/internal/fault"
)

const forwardBatch = 256 // messages moved under one lock

// Forward is the proxy between publishers, which front (XSUB) hears, and subscribers, whom
// back (XPUB) feeds: messages go front to back, and the first and last subscription of each
// topic goes back to front, also to publishers that come later. It returns nil when ctx ends
// and an error when a socket is closed or of another type. It closes neither.
func Forward(ctx context.Context, front, back *Socket) error {
	if front.typ != XSub || back.typ != XPub {
		return fault.Errorf("zmq.Forward", fault.Invalid, "want XSUB and XPUB, not %s and %s", front.typ, back.typ)
	}
	g, inner := errgroup.WithContext(ctx)
	g.Go(func() error { return forwardMessages(inner, front, back) })
	g.Go(func() error { return forwardSubscriptions(inner, front, back) })
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

func forwardMessages(ctx context.Context, front, back *Socket) error {
	batch := make([]Msg, 0, forwardBatch)
	for {
		var err error
		if batch, err = front.in.popBatch(ctx, batch[:0]); err != nil {
			return err
		}
		if err = back.sendAll(batch); err != nil {
			return err
		}
		clear(batch)
	}
}

func forwardSubscriptions(ctx context.Context, front, back *Socket) error {
	for {
		m, err := back.Recv(ctx)
		if err != nil {
			return err
		}
		if err := front.TrySend(m); err != nil {
			return err
		}
	}
}

// sendAll is Send of many messages for the types that never wait.
func (s *Socket) sendAll(batch []Msg) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range batch {
		if err := s.sendLocked(newItem(m)); err != nil {
			return err
		}
	}
	return nil
}
