package replay

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"eventspine/internal/event"
	"eventspine/internal/socketio"
	"eventspine/internal/socketio/hub"
)

// Recover gives a client that connects what it missed since it was here last: since its cursor,
// when it tells one, or else since the session that its pid names. The connection is to get live
// events already. A client with a cursor gets what there is, up to the bounds of one answer, and is
// told whether that is all; one with a pid alone, which would not notice, gets all of it or nothing,
// and is then not recovered. An error of the journal or a full line is told, and never waited for; that the
// user's events are followed is.
func (r *Replayer) Recover(ctx context.Context, user string, asked socketio.Recovery) socketio.Recovered {
	followed := r.opt.Followed(ctx, user)
	began, ours := Position{}, false
	if asked.PID != "" {
		began, ours = readPID(asked.PID, user)
	}
	cursor := len(asked.Cursor) > 0 && jsontext.Value(asked.Cursor).Kind() != 'n'
	if !cursor && asked.PID == "" {
		return socketio.Recovered{PID: newPID(user, r.newcomer(ctx, user))}
	}
	a, outcome := r.early()
	if followed {
		a, outcome = r.recall(ctx, user, asked, cursor, began, ours)
	}
	if a.Last == nil && (outcome == "unknown" || outcome == "invalid") {
		if at := r.newcomer(ctx, user); at != (Position{}) {
			a.Last = &at // to go on from
		}
	}
	r.m.recoveries.WithLabelValues(outcome).Inc()
	out := r.recovered(user, &a, !cursor)
	if out.Ok && ours {
		out.PID = asked.PID
	}
	return out
}

// newcomer is where a client begins that is new; zero, when the journal cannot be read.
func (r *Replayer) newcomer(ctx context.Context, user string) Position {
	own, all := r.partitions(user)
	at, err := r.heads.position(ctx, own, all)
	if err != nil {
		r.log.Warn("where the journal ends cannot be read; new sessions cannot be recovered", "error", err)
	}
	return at
}

// recall reads what a client asks for: since its cursor, or else since the session that began
// where its pid says, if that is one of ours.
func (r *Replayer) recall(ctx context.Context, user string, asked socketio.Recovery, cursor bool, began Position, ours bool) (answer, string) {
	var from since
	var err error
	switch {
	case cursor:
		if from, err = parseSince(asked.Cursor); err != nil {
			return answer{Info: Info{Error: err.Error()}}, "invalid"
		}
	case !ours:
		return answer{}, "unknown"
	default:
		from, err = parseOffset(asked.Offset, began)
		if err != nil || from.user == 0 && from.all == 0 && from.seq == 0 { // nobody knew where it began
			return answer{}, "unknown"
		}
	}
	a, outcome := r.read(ctx, user, from, true)
	if a.unknown {
		outcome = "unknown"
	}
	return a, outcome
}

// recovered is the answer as a connecting client gets it; whole says that it is to get all or nothing.
func (r *Replayer) recovered(user string, a *answer, whole bool) socketio.Recovered {
	out := socketio.Recovered{Ok: a.Complete && !a.More && a.Error == ""}
	if whole && !out.Ok {
		a.items, a.More = nil, false
	}
	last := Position{}
	if a.Last != nil {
		last = *a.Last
		out.At = hub.Position{Seq: max(last.User, last.All), User: last.User, All: last.All}
		out.Skip = r.skip(user, last)
	}
	out.PID, out.Info, out.Events = newPID(user, last), a.encode(), r.events(user, a)
	r.m.replayed.Add(float64(len(out.Events)))
	return out
}

// events makes events of items, each with how far the client has come by it.
func (r *Replayer) events(user string, a *answer) []hub.Event {
	own, all := r.partitions(user)
	at := a.start
	out := make([]hub.Event, 0, len(a.items))
	for _, it := range a.items {
		e, err := event.ParseStored(it.raw)
		if err != nil { // the journal has let it in
			r.log.Warn("the journal gave something that is no event", "error", err)
			continue
		}
		pos := hub.Position{Partition: own, Seq: it.seq, Epoch: e.Epoch}
		if it.all {
			at.All, pos.Partition = it.seq, all
		} else {
			at.User = it.seq
		}
		pos.User, pos.All = at.User, at.All
		out = append(out, hub.Event{Name: e.Category(), Payload: e.Raw, Position: pos})
	}
	return out
}

// skip reports for a live packet that the client has it already, as it was stored before last.
func (r *Replayer) skip(user string, last Position) func(*hub.Packet) bool {
	own, all := r.partitions(user)
	return func(p *hub.Packet) bool {
		switch {
		case p.Seq == 0:
			return false
		case p.All == p.Seq: // see Offset
			return p.Partition == all && p.Seq <= last.All
		}
		return p.Partition == own && p.Seq <= last.User
	}
}

// Offset says, for a live event, how far its clients have come with it: the position that
// Recover understands. all is the newest event for everybody that was delivered, 0 when that is
// not known; toAll says that the event is one itself.
func Offset(at event.Position, all uint64, toAll bool) hub.Position {
	p := hub.Position{Partition: at.Partition, Seq: at.Seq, Epoch: at.Epoch}
	switch {
	case toAll:
		p.All = at.Seq
	case all != 0:
		p.User, p.All = at.Seq, all
	}
	return p
}
