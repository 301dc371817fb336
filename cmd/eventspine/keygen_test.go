package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"eventspine/internal/config"
	"eventspine/internal/fault"
	"eventspine/internal/keyring"
	"eventspine/internal/run"
	"eventspine/internal/zmq/curve"
)

// listed reads the list that keygen keeps.
func listed(t *testing.T) map[string]keyring.Peer {
	t.Helper()
	text, err := os.ReadFile("keys/peers")
	if err != nil {
		t.Fatal(err)
	}
	peers, err := keyring.Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]keyring.Peer{}
	for _, p := range peers {
		out[p.Name] = p
	}
	return out
}

func TestKeygen(t *testing.T) {
	t.Chdir(t.TempDir())
	out, _, err := call(t, "keygen", "api=10.0.1.10", "worker=10.0.1.20:5557,tcp://10.0.1.20:5555", "operator")
	if err != nil || !strings.Contains(out, "keys/worker.key\t10.0.1.20:5557 10.0.1.20:5555") {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, _, err := call(t, "keygen", "bridge=ipc:///run/bridge"); err != nil { // later, and one more
		t.Fatal(err)
	}
	all := listed(t)
	for name, where := range map[string]string{"api": "10.0.1.10", "worker": "10.0.1.20:5557 10.0.1.20:5555", "operator": "", "bridge": "ipc:///run/bridge"} {
		pair, err := curve.ReadFile("keys/" + name + ".key")
		if err != nil || pair.Check() != nil || pair.Public != all[name].Key || strings.Join(all[name].Addresses, " ") != where {
			t.Errorf("%s: %v, listed at %v", name, err, all[name].Addresses)
		}
		if public, err := curve.ReadFile("keys/" + name + ".pub"); err != nil || public != (curve.Pair{Public: pair.Public}) {
			t.Errorf("%s.pub: %v", name, err)
		}
		for file, mode := range map[string]os.FileMode{".key": 0o600, ".pub": 0o644} {
			if info, err := os.Stat("keys/" + name + file); err != nil || info.Mode().Perm() != mode {
				t.Errorf("%s%s: %v, %v", name, file, info.Mode(), err)
			}
		}
		if strings.Contains(out, pair.Secret.Z85()) {
			t.Errorf("the secret of %s was printed", name)
		}
	}
	if text, err := os.ReadFile("keys/peers"); err != nil || !strings.HasPrefix(string(text), "# Peers") || strings.Count(string(text), "#  ") > 0 {
		t.Errorf("the list: %v", err)
	}
}

// What cannot be done in whole is not done at all, and nothing is overwritten.
func TestKeygenRefuses(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, _, err := call(t, "keygen", "api=10.0.1.10"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("keys/lost.key", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("keys/half.pub", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := func() map[string]string {
		all, err := filepath.Glob("keys/*")
		if err != nil {
			t.Fatal(err)
		}
		texts := map[string]string{}
		for _, f := range all {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			texts[f] = string(b)
		}
		return texts
	}
	before := files()
	for says, args := range map[string][]string{
		"the name api is there twice": {"new", "api=10.0.1.11"},
		"keys/lost.key is there":      {"new", "lost"},
		"keys/half.pub is there":      {"new", "half"},
		"the address 10.0.1.10":       {"new=10.0.1.10"},
		"name new is there twice":     {"new", "new"},
		"begins with a letter":        {"../new"},
		"is neither a host":           {"new=*:5557"},
		"--out is for one pair":       {"new", "--out", "x"},
	} {
		_, _, err := call(t, append([]string{"keygen"}, args...)...)
		if run.Code(err) != run.ExitUsage || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v", args, err)
		}
		if after := files(); len(after) != len(before) {
			t.Fatalf("%v left %d files, before there were %d", args, len(after), len(before))
		} else {
			for f, text := range after {
				if before[f] != text {
					t.Errorf("%v changed %s", args, f)
				}
			}
		}
	}
}

func TestKeygenOnePair(t *testing.T) {
	t.Chdir(t.TempDir())
	out, _, err := call(t, "keygen")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := curve.Parse([]byte(out)); err != nil || p.Secret.IsZero() {
		t.Errorf("%v\n%s", err, out)
	}
	out, _, err = call(t, "keygen", "--out", "me.key")
	if err != nil {
		t.Fatal(err)
	}
	p, err := curve.ReadFile("me.key")
	if err != nil || !strings.Contains(out, p.Public.Z85()) || strings.Contains(out, p.Secret.Z85()) {
		t.Errorf("%v\n%s", err, out)
	}
	if _, _, err := call(t, "keygen", "--out", "me.key"); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "never overwritten") {
		t.Errorf("again: %v", err)
	}
	if again, err := curve.ReadFile("me.key"); err != nil || again != p {
		t.Errorf("it was overwritten: %v", err)
	}
}

// The verbs name what is wrong with the keys, and do not fall back to plain text.
func TestVerbsNameWrongKeys(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, _, err := call(t, "keygen", "there=10.0.0.1", "me"); err != nil {
		t.Fatal(err)
	}
	good := []string{"--curve-key", "keys/me.key", "--curve-peers", "keys/peers"}
	for _, verb := range [][]string{{"ping", "tcp://127.0.0.1:1"}, {"status", "--control", "tcp://127.0.0.1:1"},
		{"rules", "list", "--clone", "tcp://127.0.0.1:1"}, {"tail", "--all", "--xpub", "tcp://127.0.0.1:1"}} {
		for says, flags := range map[string][]string{
			"CURVE_PEERS has no key for tcp://127.0.0.1:1": good,
			"CURVE_PEERS names no peer":                    good[:2],
			"CURVE_KEY is empty":                           good[2:],
			"CURVE_KEY_FILE cannot be read":                {"--curve-key", "none", "--curve-peers", "keys/peers"},
		} {
			_, _, err := call(t, append(verb[:len(verb):len(verb)], flags...)...)
			if run.Code(err) != run.ExitUsage || !strings.Contains(err.Error(), says) {
				t.Errorf("%v %v: %v", verb, flags, err)
			}
		}
	}
	t.Setenv("CURVE_KEY_FILE", "keys/me.key")
	if _, _, err := call(t, "ping", "tcp://10.0.0.1:1"); run.Code(err) != run.ExitUsage || !strings.Contains(err.Error(), "CURVE_PEERS names no peer") {
		t.Errorf("a key alone in the environment: %v", err)
	}
}

// TestKeysOfThreeMachines: every process of the deployment finds in its own files whatever it needs to
// connect where the deployment says, and no file is ever made twice.
func TestKeysOfThreeMachines(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, _, err := call(t, "keygen", "--three-machines", "--dir", "k"); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile("k/peers")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"api", "proxy", "worker-1", "worker-2", "indexer", "bridge", "bridges", "operator"} {
		key, err := os.ReadFile("k/" + name + ".key")
		if err != nil {
			t.Fatal(err)
		}
		o := &operator{config.Curve{CurveKey: string(key), CurvePeers: string(list)}}
		ring, err := keyring.Open(o, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, at := range []string{"tcp://10.0.1.20:5557", "tcp://10.0.1.21:5557", "tcp://10.0.1.20:5559", "tcp://10.0.1.20:5560", "tcp://10.0.1.20:5562", "tcp://10.0.1.20:5563",
			"tcp://10.0.1.10:5555", "tcp://10.0.1.20:5555", "tcp://10.0.1.20:5556", "tcp://10.0.1.30:5555", "tcp://10.0.1.30:5556"} {
			if _, err := ring.Client().FindServer(at); err != nil {
				t.Errorf("%s does not know whose key is at %s: %v", name, at, err)
			}
		}
	}
	if _, _, err := call(t, "keygen", "--three-machines", "--dir", "k"); run.Code(err) != run.ExitUsage {
		t.Errorf("a second call: %v", err)
	}
	if _, _, err := call(t, "keygen", "--three-machines", "more"); run.Code(err) != run.ExitUsage {
		t.Errorf("with a name: %v", err)
	}
}
