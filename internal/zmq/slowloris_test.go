package zmq

import (
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"eventspine/internal/zmq/curve"
	"eventspine/internal/zmq/zmtp"
)

// mute is the wire of a CURVE client that speaks once and hears nothing.
type mute struct{ net.Conn }

func (m mute) SendCommand(name string, body []byte) error {
	_, err := m.Write(zmtp.EncodeCommand(name, body))
	return err
}

func (mute) RecvCommand() (string, []byte, error) { return "", nil, errors.New("hears nothing") }

// dawdle opens n connections to a CURVE socket and finishes no handshake: some say nothing, some a
// part of the greeting, some a byte now and then, some all of HELLO and some half of it.
func dawdle(t *testing.T, ep string, client *CurveOptions, n int) (all []net.Conn) {
	t.Helper()
	greeting := hello("x")[:64]
	copy(greeting[12:], "CURVE\x00")
	var drip []net.Conn
	for i := range n {
		c := raw(t, ep)
		all = append(all, c)
		switch i % 5 {
		case 1:
			say(t, c, greeting[:40])
		case 2:
			drip = append(drip, c)
		case 3:
			say(t, c, greeting)
			keys := curve.Pair{Public: client.Public, Secret: client.Secret}
			if _, _, err := curve.Handshake(mute{c}, curve.Config{Keys: keys, ServerKey: client.ServerKey}, nil); err == nil {
				t.Fatal("a handshake with nobody")
			}
		case 4:
			say(t, c, greeting, zmtp.EncodeCommand("HELLO", make([]byte, 194))[:100])
		}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-stopped })
	go func() {
		defer close(stopped)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for _, b := range greeting[:63] {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			for _, c := range drip {
				_, _ = c.Write([]byte{b})
			}
		}
	}()
	return all
}

// connectTimes is how long each of n good clients takes, one after the other, from Connect until its first
// message has arrived; sorted.
func connectTimes(t *testing.T, pull *Socket, client Options, ep string, n int) (times []time.Duration) {
	t.Helper()
	for range n {
		push := open(t, Push, client)
		began := time.Now()
		if err := push.Connect(ep); err != nil {
			t.Fatal(err)
		}
		send(t, push, "through")
		expect(t, pull, "through")
		times = append(times, time.Since(began))
		_ = push.Close(t.Context())
	}
	peersOf(t, 0, pull)
	slices.Sort(times)
	return times
}

func halfOpen(s *Socket) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns) - len(s.peers)
}

// files is the number of open files, where the system tells.
func files() int {
	all, _ := os.ReadDir("/proc/self/fd")
	return len(all)
}

func TestAThousandHalfOpenPeersKeepNobodyOut(t *testing.T) {
	n := uint64(1000)
	if raceOn {
		n = 200 // the detector makes a handshake ten times as long
	}
	const good = 20
	server, client := curves(t)
	server.HandshakeTimeout = 5 * time.Second
	pull, ep := bound(t, Pull, server)
	without := connectTimes(t, pull, client, ep, good)
	goroutines, opened := runtime.NumGoroutine(), files()
	slow := dawdle(t, ep, client.Curve, int(n))
	eventually(t, "all of them to be accepted", func() bool { return halfOpen(pull) == int(n) })
	with := connectTimes(t, pull, client, ep, good)
	if left := halfOpen(pull); left != int(n) {
		t.Errorf("%d of %d were still half open at the end", left, n)
	}
	t.Logf("connected after, without: median %v, max %v; with %d half-open peers: median %v, max %v",
		without[good/2], without[good-1], n, with[good/2], with[good-1])
	if median := with[good/2]; !raceOn && median > 100*time.Millisecond {
		t.Errorf("a good peer waited %v", median)
	}
	eventually(t, "the half-open ones to be cut off", func() bool { return pull.Stats().HandshakeFailures == n && halfOpen(pull) == 0 })
	for _, c := range slow {
		hangsUp(t, c)
		_ = c.Close()
	}
	eventually(t, "their goroutines and files to be gone", func() bool {
		return runtime.NumGoroutine() <= goroutines+1 && files() <= opened // the one that drips
	})
}
