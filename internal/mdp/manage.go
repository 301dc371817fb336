package mdp

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"eventspine/internal/zmq"
)

const reservedPrefix = "mmi."

// The answers of RFC 8, and one of ours for a request that makes no sense.
const (
	statusFound      = "200"
	statusMalformed  = "400"
	statusNotFound   = "404"
	statusNoSuchCall = "501"
)

// The management services that the broker answers itself, beside mmi.service of RFC 8.
const (
	ServiceLookup = "mmi.service"  // body: a name; answer: 200 or 404
	ServiceCount  = "mmi.workers"  // body: a name; answer: how many workers it has, in decimal digits
	ServiceList   = "mmi.services" // answer: a JSON array of Listing, ordered by name
)

// Listing describes one service in the answer to mmi.services.
type Listing struct {
	Service string    `json:"service"`
	Workers int       `json:"workers"`        // registered now
	Busy    int       `json:"busy"`           // of them, those that work on a request
	Queued  int       `json:"queued"`         // requests that wait for a worker
	Since   time.Time `json:"since,omitzero"` // when the worker that is there longest registered; zero: there is none
	Seen    time.Time `json:"seen,omitzero"`  // when its last worker went; zero: there is one, or never was
}

func isReserved(service string) bool { return strings.HasPrefix(service, reservedPrefix) }

// manage answers a request in the namespace mmi.
func (x *exchange) manage(service string, body zmq.Msg) zmq.Msg {
	switch service {
	case ServiceLookup, ServiceCount:
		if len(body) != 1 || checkService(string(body[0])) != nil {
			return text(statusMalformed)
		}
		n := 0
		if s := x.services[string(body[0])]; s != nil {
			n = s.workers
		}
		if service == ServiceCount {
			return text(strconv.Itoa(n))
		}
		if n == 0 {
			return text(statusNotFound)
		}
		return text(statusFound)
	case ServiceList:
		b, err := json.Marshal(x.list())
		if err != nil {
			return text(statusMalformed)
		}
		return zmq.Msg{b}
	}
	return text(statusNoSuchCall)
}

func text(s string) zmq.Msg { return zmq.Msg{[]byte(s)} }

// list leaves out names that never had a worker: those are clients' mistakes.
func (x *exchange) list() []Listing {
	oldest := map[*service]time.Time{}
	for _, w := range x.workers {
		if at, ok := oldest[w.service]; !ok || w.since.Before(at) {
			oldest[w.service] = w.since
		}
	}
	all := make([]Listing, 0, len(x.services))
	for _, s := range x.services {
		if s.workers == 0 && s.seen.IsZero() {
			continue
		}
		l := Listing{Service: s.name, Workers: s.workers, Busy: s.workers - len(s.idle), Queued: len(s.queue), Since: oldest[s]}
		if s.workers == 0 {
			l.Seen = s.seen
		}
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b Listing) int { return cmp.Compare(a.Service, b.Service) })
	return all
}
