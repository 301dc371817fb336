package mdp

import (
	"errors"
	"unicode"
	"unicode/utf8"

	"eventspine/internal/fault"
	"eventspine/internal/zmq"
)

const (
	clientHeader = "MDPC01"
	workerHeader = "MDPW01"
	maxService   = 255 // bytes of a service's name
)

// command is the third frame of MDP/Worker. A client's request is command request as well.
type command byte

const (
	ready      command = 1
	request    command = 2
	reply      command = 3
	heartbeat  command = 4
	disconnect command = 5
)

func (c command) frame() []byte { return []byte{byte(c)} }

// The ways a message can be wrong: the values of the metrics' reason label.
var (
	errHeader  = errors.New("header")
	errCommand = errors.New("command")
	errFrames  = errors.New("frames")
	errService = errors.New("service")
)

// packet is one message that the broker received.
type packet struct {
	from    string // the peer's address
	worker  bool   // MDP/Worker, not MDP/Client
	command command
	service string  // of a client's request and of READY
	client  string  // of REPLY: who asked
	body    zmq.Msg // of a client's request and of REPLY; never empty there
}

// readPeer takes apart what a ROUTER received: the peer's address, then a command of
// MDP/Client or MDP/Worker. What it could tell is in the packet also when there is an error.
func readPeer(m zmq.Msg) (packet, error) {
	if len(m) == 0 {
		return packet{}, errFrames
	}
	p := packet{from: string(m[0])}
	if len(m) < 3 || len(m[1]) != 0 {
		return p, errHeader
	}
	switch rest := m[3:]; string(m[2]) {
	case clientHeader:
		p.command = request
		if len(rest) < 2 {
			return p, errFrames
		}
		p.service, p.body = string(rest[0]), rest[1:]
		return p, checkService(p.service)
	case workerHeader:
		p.worker = true
		return p, p.readWorker(rest)
	}
	return p, errHeader
}

func (p *packet) readWorker(m zmq.Msg) error {
	if len(m) == 0 || len(m[0]) != 1 {
		return errCommand
	}
	p.command = command(m[0][0])
	switch args := m[1:]; p.command {
	case ready:
		if len(args) != 1 {
			return errFrames
		}
		p.service = string(args[0])
		return checkService(p.service)
	case reply:
		if len(args) < 3 || len(args[0]) == 0 || len(args[1]) != 0 {
			return errFrames
		}
		p.client, p.body = string(args[0]), args[2:]
		return nil
	case heartbeat, disconnect:
		if len(args) != 0 {
			return errFrames
		}
		return nil
	}
	return errCommand
}

// checkService refuses what is no printable name.
func checkService(name string) error {
	if name == "" || len(name) > maxService || !utf8.ValidString(name) {
		return errService
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return errService
		}
	}
	return nil
}

// order is one message that a worker received.
type order struct {
	command command
	client  []byte  // of REQUEST: the address that the reply goes to
	body    zmq.Msg // of REQUEST, never empty there
}

// readOrder takes apart what a worker's DEALER received.
func readOrder(m zmq.Msg) (order, error) {
	if len(m) < 2 || len(m[0]) != 0 || string(m[1]) != workerHeader {
		return order{}, errHeader
	}
	if len(m) < 3 || len(m[2]) != 1 {
		return order{}, errCommand
	}
	o := order{command: command(m[2][0])}
	switch args := m[3:]; o.command {
	case request:
		if len(args) < 3 || len(args[0]) == 0 || len(args[1]) != 0 {
			return o, errFrames
		}
		o.client, o.body = args[0], args[2:]
		return o, nil
	case heartbeat, disconnect:
		if len(args) != 0 {
			return o, errFrames
		}
		return o, nil
	}
	return o, errCommand
}

// readAnswer takes apart what a client's REQ received and gives the body.
func readAnswer(m zmq.Msg, service string) (zmq.Msg, error) {
	switch {
	case len(m) < 3:
		return nil, errFrames
	case string(m[0]) != clientHeader:
		return nil, errHeader
	case string(m[1]) != service:
		return nil, errService
	}
	return m[2:], nil
}

// toWorker is a command for the worker at an address of the broker's ROUTER.
func toWorker(address string, c command, args ...[]byte) zmq.Msg {
	return append(zmq.Msg{[]byte(address), nil, []byte(workerHeader), c.frame()}, args...)
}

// toClient is the answer for a client at an address of the broker's ROUTER.
func toClient(address, service string, body zmq.Msg) zmq.Msg {
	return append(zmq.Msg{[]byte(address), nil, []byte(clientHeader), []byte(service)}, body...)
}

// toBroker is a command from a worker's DEALER.
func toBroker(c command, args ...[]byte) zmq.Msg {
	return append(zmq.Msg{nil, []byte(workerHeader), c.frame()}, args...)
}

// question is a request from a client's REQ, which adds the empty frame itself.
func question(service string, body zmq.Msg) (zmq.Msg, error) {
	if err := checkService(service); err != nil {
		return nil, fault.Errorf("mdp", fault.Invalid, "%q is no name of a service: 1 to %d printable bytes", service, maxService)
	}
	return append(zmq.Msg{[]byte(clientHeader), []byte(service)}, full(body)...), nil
}

// full gives a body at least the one frame that RFC 7 asks for.
func full(body zmq.Msg) zmq.Msg {
	if len(body) == 0 {
		return zmq.Msg{nil}
	}
	return body
}
