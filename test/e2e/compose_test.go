package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"eventspine/internal/rdb"
	"eventspine/test/harness"
)

// composed is what `docker compose up` made of docker-compose.yml.
type composed struct {
	*harness.System
	project string
}

var (
	ourContainers   = []string{"proxy", "worker-1", "worker-2", "indexer", "bridge", "api"}
	otherContainers = []string{"redis", "elasticsearch"}
)

// TestCompose is `make compose-test`: the main job through the two published ports, every
// process killed, and all of it taken down and brought up again, with nothing lost.
func TestCompose(t *testing.T) {
	project := os.Getenv("EVENTSPINE_COMPOSE")
	if project == "" {
		t.Skip("make compose-test runs it")
	}
	s := &composed{&harness.System{APIURL: "http://127.0.0.1:3000", BridgeURL: "http://127.0.0.1:3001"}, project}
	s.look(t)
	mark := fmt.Sprintf("-%d", time.Now().UnixNano())
	first, second := webhooks(t, mark+"a"), webhooks(t, mark+"b")

	var posted []input
	t.Run("the main job", func(t *testing.T) {
		posted = append(posted, first...)
		realInput(t, s.System, goBrowsers{}, first, "*"+mark)
	})
	t.Run("shut in", s.checkShutIn)
	t.Run("killed", func(t *testing.T) {
		s.killEach(t, second)
		posted = append(posted, second...)
		s.checkStored(t, posted)
	})
	t.Run("down and up", func(t *testing.T) { s.downAndUp(t, posted) })
}

// look finds the secret, and the addresses of Redis and Elasticsearch, which only this machine reaches.
func (s *composed) look(t *testing.T) {
	t.Helper()
	s.Secret = s.file(t, "jwt", "secret")
	s.Redis = strings.Replace(s.file(t, "redis-access", "url"), "@redis:", "@"+s.inspect(t, "redis", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")+":", 1)
}

func (s *composed) file(t *testing.T, volume, name string) string {
	t.Helper()
	image := s.inspect(t, "redis", "{{.Config.Image}}")
	return docker(t, nil, "run", "--rm", "--network", "none", "--user", "root", "--entrypoint", "cat", "-v", s.project+"_"+volume+":/volume:ro", image, "/volume/"+name)
}

func (s *composed) inspect(t *testing.T, service, format string) string {
	t.Helper()
	return docker(t, nil, "inspect", "--format", format, s.project+"-"+service+"-1")
}

func (s *composed) compose(t *testing.T, args ...string) string {
	t.Helper()
	return docker(t, nil, append([]string{"compose", "--project-name", s.project}, args...)...)
}

// docker runs the command at the top of the source and returns what it printed.
func docker(t *testing.T, stdin io.Reader, args ...string) string {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "docker", args...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stderr = root, stdin, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s%s", strings.Join(args, " "), err, out, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// checkShutIn looks from outside: what is published, on which addresses the processes listen, as
// whom they run, and how Redis keeps its data.
func (s *composed) checkShutIn(t *testing.T) {
	var published []string
	for line := range strings.Lines(docker(t, nil, "ps", "--filter", "label=com.docker.compose.project="+s.project, "--format", "{{.Ports}}")) {
		for _, p := range strings.Split(strings.TrimSpace(line), ", ") {
			if strings.Contains(p, "->") {
				published = append(published, p)
			}
		}
	}
	slices.Sort(published)
	if want := []string{"127.0.0.1:3000->3000/tcp", "127.0.0.1:3001->3001/tcp"}; !slices.Equal(published, want) {
		t.Errorf("published: %v, want %v", published, want)
	}
	for _, c := range slices.Concat(ourContainers, otherContainers) {
		pid := s.inspect(t, c, "{{.State.Pid}}")
		if n := wildcards(t, pid); len(n) > 0 {
			t.Errorf("%s listens on every address, at %v", c, n)
		}
		status, err := os.ReadFile("/proc/" + pid + "/status")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			switch {
			case name == "Uid" && strings.HasPrefix(value, "0\t"),
				name == "CapEff" && value != "0000000000000000",
				name == "NoNewPrivs" && value != "1":
				t.Errorf("%s runs with %s %s", c, name, value)
			}
		}
	}
	for _, c := range append(slices.Clone(ourContainers), "redis") {
		if s.inspect(t, c, "{{.HostConfig.ReadonlyRootfs}}") != "true" {
			t.Errorf("%s may write into its image", c)
		}
	}
	c, err := rdb.Open(s.Redis)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for name, want := range map[string]string{"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"} {
		got, err := c.ConfigGet(t.Context(), name).Result()
		if err != nil || got[name] != want {
			t.Errorf("Redis has %s %s, %v; want %s", name, got[name], err, want)
		}
	}
}

// wildcards are the ports at which the network of a process listens on every address.
func wildcards(t *testing.T, pid string) []string {
	t.Helper()
	var out []string
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open("/proc/" + pid + "/net/" + table)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			const local, state, listening = 1, 3, "0A"
			fields := strings.Fields(lines.Text())
			if len(fields) > state && fields[state] == listening && strings.HasPrefix(fields[local], "00000000") {
				out = append(out, fields[local])
			}
		}
		_ = f.Close()
	}
	return out
}

// killEach kills the process of one container after the other, posts some of the events at once, and
// waits until all containers are healthy. A client that syncs each time gets every event of its user once.
func (s *composed) killEach(t *testing.T, events []input) {
	user := busiestUser(events)
	var got []seen
	services := slices.Concat(otherContainers, ourContainers)
	for i, c := range services {
		part := events[len(events)*i/len(services) : len(events)*(i+1)/len(services)]
		began := time.Now()
		s.kill(t, c)
		s.insist(t, part)
		s.healthy(t, services)
		t.Logf("%s: healthy again after %.1f s", c, time.Since(began).Seconds())
		got = s.catchUp(t, user, got, events[:len(events)*(i+1)/len(services)])
	}
	s.look(t)
	settle(t, s.System, s.Token("sender", "emit"))
	checkBrowser(t, user, got, events)
}

// checkStored wants each event once in the index and once in the journal, whose numbers may jump
// where Redis was started again.
func (s *composed) checkStored(t *testing.T, events []input) {
	t.Helper()
	checkIndex(t, s.System, events)
	times := readJournal(t, s.System, func(int, uint64, uint64) {})
	not := 0
	for _, e := range events {
		if times[e.ID] != 1 {
			if not++; not <= 5 {
				t.Errorf("%s is in the journal %d times", e.ID, times[e.ID])
			}
		}
	}
	if not > 0 {
		t.Errorf("%d of %d events are not in the journal once", not, len(events))
	}
}

// kill ends the first process of a container as the kernel does when memory is short.
func (s *composed) kill(t *testing.T, service string) {
	t.Helper()
	before := s.inspect(t, service, "{{.RestartCount}}")
	pid, err := strconv.Atoi(s.inspect(t, service, "{{.State.Pid}}"))
	if err != nil || pid <= 1 {
		t.Fatalf("%s has the process %d, %v", service, pid, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() bool { return s.inspect(t, service, "{{.RestartCount}}") != before },
		func() string { return service + " is not started again" })
}

func (s *composed) healthy(t *testing.T, services []string) {
	t.Helper()
	var away []string
	eventually(t, 8*time.Minute, func() bool { // Elasticsearch on a busy machine
		away = nil
		for _, c := range services {
			if is := s.inspect(t, c, "{{.State.Status}} {{.State.Health.Status}}"); is != "running healthy" {
				away = append(away, c+" is "+is)
			}
		}
		return len(away) == 0
	}, func() string { return strings.Join(away, ", ") })
}

// insist posts events as a caller should: the same ones again until they are accepted.
func (s *composed) insist(t *testing.T, events []input) {
	t.Helper()
	body := bytes.Join(lines(events), []byte("\n"))
	var said string
	eventually(t, 2*time.Minute, func() bool {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.APIURL+"/api/events/batch", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+s.Token("sender", "emit"))
		r.Header.Set("Content-Type", "application/x-ndjson")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			said = err.Error()
			return false
		}
		text, _ := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		said = fmt.Sprintf("%d %s", answer.StatusCode, text)
		return answer.StatusCode == http.StatusAccepted
	}, func() string { return "not accepted: " + said })
}

// catchUp connects as the user and syncs from what it has until it has all of the events. Broadcasts of
// before, which a client without a position gets as well, do not count.
func (s *composed) catchUp(t *testing.T, user string, got []seen, events []input) []seen {
	t.Helper()
	mine, everybody := own(events, user)
	b := goBrowsers{}.connect(t, s.BridgeURL, s.Token(user))
	defer b.drop()
	has := map[string]bool{}
	for _, e := range got {
		has[e.ID] = true
	}
	posted := map[string]bool{}
	for _, e := range events {
		posted[e.ID] = true
	}
	eventually(t, time.Minute, func() bool {
		missed, _ := b.sync(t, lastSeq(got))
		for _, e := range missed {
			if posted[e.ID] && !has[e.ID] {
				has[e.ID] = true
				got = append(got, e)
			}
		}
		return len(got) >= len(mine)+len(everybody)
	}, func() string { return fmt.Sprintf("%s has %d of %d events", user, len(got), len(mine)+len(everybody)) })
	return got
}

// downAndUp takes everything down while accepted events wait on the api's disk alone, and wants all
// of it back: the index, the journal, the secrets, the live rules, and what waited.
func (s *composed) downAndUp(t *testing.T, events []input) {
	const rule = "name: kept\nmatch: nothing.*\ndrop: true\n"
	docker(t, strings.NewReader(rule), "compose", "--project-name", s.project, "exec", "-T", "api", "eventspine", "rules", "set", "kept")
	token := s.compose(t, "exec", "-T", "api", "eventspine", "token", "--user", "ana", "--scope", "admin")
	s.compose(t, "stop", "worker-1", "worker-2")
	waiting := webhooks(t, fmt.Sprintf("-%dc", time.Now().UnixNano()))[:40]
	s.insist(t, waiting)

	began := time.Now()
	s.compose(t, "down")
	down := time.Since(began)
	s.compose(t, "up", "--wait")
	t.Logf("down in %.1f s, up and healthy in %.1f s", down.Seconds(), (time.Since(began) - down).Seconds())

	s.look(t)
	settle(t, s.System, s.Token("sender", "emit"))
	events = append(events, waiting...)
	s.checkStored(t, events)
	if status, body := ask(t, s.System, token, nil); status != http.StatusOK {
		t.Errorf("the token of before: %d %s", status, body)
	}
	if got := s.compose(t, "exec", "-T", "api", "eventspine", "rules", "get", "kept"); strings.TrimSpace(got) != strings.TrimSpace(rule) {
		t.Errorf("the live rule came back as %q", got)
	}
	s.compose(t, "exec", "-T", "api", "eventspine", "rules", "rm", "kept")
	s.figures(t)
}

// figures prints what the containers take, and checks that everybody is registered.
func (s *composed) figures(t *testing.T) {
	var here []struct{ Service, Instance string }
	if err := json.Unmarshal([]byte(s.compose(t, "exec", "-T", "api", "eventspine", "status", "--json")), &here); err != nil {
		t.Fatal(err)
	}
	if len(here) < len(ourContainers) {
		t.Errorf("`eventspine status` knows %v", here)
	}
	t.Log("memory:\n" + docker(t, nil, "stats", "--no-stream", "--format", "{{.Name}}  {{.MemUsage}}"))
}
