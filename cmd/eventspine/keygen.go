package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"eventspine/internal/fault"
	"eventspine/internal/keyring"
	"eventspine/internal/zmq/curve"
)

const peersFile = "peers"

const peersHead = `# Peers of this system: name, public key, and where each listens (host, host:port, ipc://path).
# Every one of them may connect. Give this file to all processes as CURVE_PEERS_FILE.
`

// threeMachines are the processes of the deployment: one machine for the api, one for worker and
// proxy, one for indexer and bridge, and those that can be added: a second worker, more bridges, whose
// addresses nobody needs to know. The operator only connects.
func threeMachines() []string {
	return []string{
		"api=10.0.1.10", "proxy=10.0.1.20", "worker-1=10.0.1.20:5557,10.0.1.20:5555", "worker-2=10.0.1.21",
		"indexer=10.0.1.30:5555", "bridge=10.0.1.30:5556", "bridges", "operator",
	}
}

func keygenCommand() *cobra.Command {
	var dir, out string
	var three bool
	c := &cobra.Command{
		Use:   "keygen [NAME[=ADDRESS[,ADDRESS…]]…]",
		Short: "Make CURVE keys for services and operators, and the list of them",
		Long: "Make a key pair for each name: NAME.key, which is secret, NAME.pub, and one list of all, " + peersFile + ", to which names\n" +
			"can be added later. An address says where a process listens: a host when it has the host to itself, host:port\n" +
			"otherwise. Give each process its own .key file as CURVE_KEY_FILE and the list as CURVE_PEERS_FILE. Whoever only\n" +
			"connects, such as an operator, needs no address. No file with a key is ever overwritten.\n\n" +
			"Without a name, one pair goes to the file of --out, or to standard output. With --three-machines, the names and\n" +
			"addresses are those of the deployment: " + strings.Join(threeMachines(), " ") + ".",
		Example: "  eventspine keygen --dir keys api=10.0.1.10 proxy=10.0.1.20 worker=10.0.1.20:5557,10.0.1.20:5555 \\\n" +
			"    indexer=10.0.1.30:5555 bridge=10.0.1.30:5556 operator",
		RunE: func(c *cobra.Command, args []string) error {
			if three && len(args) > 0 {
				return usage(errors.New("--three-machines has names of its own; add others by a second call"))
			}
			if three {
				args = threeMachines()
			}
			if len(args) == 0 {
				return onePair(c.OutOrStdout(), out)
			}
			if out != "" {
				return usage(errors.New("--out is for one pair without a name; names go to --dir"))
			}
			peers, err := wanted(args)
			if err != nil {
				return usage(err)
			}
			if err := makeKeys(dir, peers); err != nil {
				return err
			}
			return tellKeys(c.OutOrStdout(), dir, peers)
		},
	}
	c.Flags().StringVar(&dir, "dir", "keys", "directory for the keys and the list; made if it is not there")
	c.Flags().StringVar(&out, "out", "", "without a name: new file for the secret key; the public one goes beside it, as .pub")
	c.Flags().BoolVar(&three, "three-machines", false, "keys and list for the processes of deploy/cloudformation")
	return c
}

// onePair writes one pair to a file, or to w when there is none.
func onePair(w io.Writer, path string) error {
	pair, err := curve.GenerateKeys()
	if err != nil {
		return err
	}
	if path == "" {
		_, err = io.WriteString(w, pair.Certificate())
		return err
	}
	if err := pair.WriteFiles(path); err != nil {
		return kept(err)
	}
	_, err = fmt.Fprintf(w, "%s\nits public key: %s\n", path, pair.Public.Z85())
	return err
}

// kept says in a user's words that a file is there already.
func kept(err error) error {
	var at *fs.PathError
	if fault.KindOf(err) == fault.Conflict && errors.As(err, &at) {
		return usage(fmt.Errorf("%s is there already; a key is never overwritten", at.Path))
	}
	return err
}

// wanted reads the arguments.
func wanted(args []string) ([]keyring.Peer, error) {
	peers := make([]keyring.Peer, 0, len(args))
	for _, arg := range args {
		name, list, _ := strings.Cut(arg, "=")
		if err := keyring.CheckName(name); err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		p := keyring.Peer{Name: name}
		for _, text := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
			at, err := keyring.Address(text)
			if err != nil {
				return nil, err
			}
			p.Addresses = append(p.Addresses, at)
		}
		peers = append(peers, p)
	}
	return peers, nil
}

// makeKeys makes a pair for each peer in dir and adds them to its list. On an error nothing
// was made.
func makeKeys(dir string, peers []keyring.Peer) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	list := filepath.Join(dir, peersFile)
	text, pairs, err := longer(list, peers)
	if err != nil {
		return err
	}
	var made []string
	defer func() {
		for _, path := range made {
			if err != nil {
				err = errors.Join(err, os.Remove(path), os.Remove(strings.TrimSuffix(path, curve.Ext)+curve.PublicExt))
			}
		}
	}()
	for i, p := range peers {
		path := filepath.Join(dir, p.Name+curve.Ext)
		if err := pairs[i].WriteFiles(path); err != nil {
			return kept(err)
		}
		made = append(made, path)
	}
	return replace(list, text)
}

// longer is the text of the list with a new key for each of the peers.
func longer(list string, peers []keyring.Peer) (string, []curve.Pair, error) {
	text, err := os.ReadFile(list)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = []byte(peersHead), nil
	}
	if err != nil {
		return "", nil, err
	}
	var lines strings.Builder
	lines.Write(text)
	if len(text) > 0 && text[len(text)-1] != '\n' {
		lines.WriteByte('\n')
	}
	pairs := make([]curve.Pair, len(peers))
	for i := range peers {
		if pairs[i], err = curve.GenerateKeys(); err != nil {
			return "", nil, err
		}
		peers[i].Key = pairs[i].Public
		lines.WriteString(peers[i].Line() + "\n")
	}
	if _, err := keyring.Parse(lines.String()); err != nil {
		return "", nil, usage(fmt.Errorf("%s with the new names in it: %w", list, err))
	}
	return lines.String(), pairs, nil
}

// replace gives the file at path a new content, all at once.
func replace(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), peersFile+"-")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

func tellKeys(w io.Writer, dir string, peers []keyring.Peer) error {
	for _, p := range peers {
		where := strings.Join(p.Addresses, " ")
		if where == "" {
			where = "only connects"
		}
		if _, err := fmt.Fprintf(w, "%s\t%s\n", filepath.Join(dir, p.Name+curve.Ext), where); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s\tthe list of all\n\nEach process gets CURVE_KEY_FILE with its own key and CURVE_PEERS_FILE with the list. Processes that run read them when they start again.\n", filepath.Join(dir, peersFile))
	return err
}
