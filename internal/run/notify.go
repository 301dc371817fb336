package run

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// Alive is implemented by what Open made when the service can tell whether it still does its
// work. The watchdog of a service manager is told only while Alive returns nil in time.
type Alive interface {
	Alive(context.Context) error
}

// manager is the service manager (systemd, Type=notify) that started this process. The zero
// manager is none.
type manager struct {
	socket   string        // NOTIFY_SOCKET; empty: nobody to tell
	watchdog time.Duration // how long it waits for a sign of life; 0: for ever
	log      *slog.Logger
}

// managerOf reads what sd_notify(3) and sd_watchdog_enabled(3) say is in the environment.
func managerOf(environ []string, log *slog.Logger) manager {
	vars := map[string]string{}
	for _, v := range environ {
		for i := range v {
			if v[i] == '=' {
				vars[v[:i]] = v[i+1:]
				break
			}
		}
	}
	m := manager{socket: vars["NOTIFY_SOCKET"], log: log}
	pid, named := vars["WATCHDOG_PID"]
	usec, err := strconv.ParseInt(vars["WATCHDOG_USEC"], 10, 64)
	if err == nil && usec > 0 && (!named || pid == strconv.Itoa(os.Getpid())) {
		m.watchdog = time.Duration(usec) * time.Microsecond
	}
	return m
}

// tell sends one datagram. A manager that cannot be told is logged; the service works on.
func (m *manager) tell(ctx context.Context, state string) {
	if m.socket == "" {
		return
	}
	c, err := new(net.Dialer).DialContext(ctx, "unixgram", m.socket) // a name that begins with @ is an abstract one
	if err == nil {
		_, err = c.Write([]byte(state))
		_ = c.Close()
	}
	if err != nil {
		m.log.Warn("the service manager was not told", "state", state, "error", err.Error())
	}
}

// began says that the service has started, and from then on every third of the watchdog's
// time that it is alive, as long as it is. When ctx ends it says that the service is ending
// and gives it the watchdog's time once more. The function it returns waits for all that.
func (m *manager) began(ctx context.Context, deps any) (ended func()) {
	if m.socket == "" {
		return func() {}
	}
	m.tell(context.WithoutCancel(ctx), "READY=1")
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		m.watch(ctx, deps)
		m.tell(context.WithoutCancel(ctx), "STOPPING=1\nWATCHDOG=1")
	})
	return func() { cancel(); wg.Wait() }
}

func (m *manager) watch(ctx context.Context, deps any) {
	who, tells := deps.(Alive)
	if m.watchdog == 0 || !tells {
		<-ctx.Done()
		return
	}
	every := m.watchdog / 3
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		limit, cancel := context.WithTimeout(ctx, every)
		err := who.Alive(limit)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			m.log.Error("this service does not answer itself; the watchdog will end it unless it does soon", "error", err.Error(), "watchdog", m.watchdog.String())
		default:
			m.tell(ctx, "WATCHDOG=1")
		}
	}
}
