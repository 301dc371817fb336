package netns

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"eventspine/internal/fault"
)

// Rules drop packets in the namespace of the test, where they arrive: the sender notices nothing.
// They hold for every process in it, and end with it. The zero value is ready; values with the same
// Name are the same rules. Safe for concurrent use.
//
// A match is an expression of nft, such as "tcp dport 6379" or "ip daddr 127.0.0.2"; see Ports and Hosts.
// Every method returns an error of kind Forbidden outside a namespace that Rerun made, where it does
// nothing, and of kind Invalid when nft does not understand the match or the Name.
type Rules struct {
	Name string // letters, digits and _
}

// Ports matches what any of the TCP ports sends or is sent: with a client's port its connection,
// with a server's port all of the server's.
func Ports(ports ...int) []string {
	list := make([]string, len(ports))
	for i, p := range ports {
		list[i] = strconv.Itoa(p)
	}
	return both("tcp sport", "tcp dport", list)
}

// Hosts matches what any of the IPv4 addresses sends or is sent. The namespace has all of 127.0.0.0/8,
// so that each client may dial from an address of its own, as from a network of its own.
func Hosts(addresses ...string) []string { return both("ip saddr", "ip daddr", addresses) }

func both(from, to string, list []string) []string {
	set := " { " + strings.Join(list, ", ") + " }"
	return []string{from + set, to + set}
}

// Drop drops from now on every packet that one of the matches fits; without a match every packet.
func (r *Rules) Drop(ctx context.Context, match ...string) error {
	return r.add(ctx, "", match)
}

// Lose is Drop for so many packets in a hundred, at random: 0 none, 100 all.
func (r *Rules) Lose(ctx context.Context, percent int, match ...string) error {
	switch {
	case percent < 0 || percent > 100:
		return fault.Errorf("lose packets", fault.Invalid, "%d of a hundred", percent)
	case percent == 100: // nft wants less
		return r.Drop(ctx, match...)
	}
	return r.add(ctx, fmt.Sprintf("numgen random mod 100 < %d", percent), match)
}

// Heal takes back everything these rules were told.
func (r *Rules) Heal(ctx context.Context) error {
	name := r.name()
	_, err := nft(ctx, fmt.Sprintf("add table inet %s\ndelete table inet %s\n", name, name))
	return err
}

var packets = regexp.MustCompile(`counter packets (\d+)`)

// Dropped is how many packets these rules have dropped since they were last healed.
func (r *Rules) Dropped(ctx context.Context) (int, error) {
	out, err := nft(ctx, fmt.Sprintf("add table inet %s\nlist table inet %s\n", r.name(), r.name()))
	if err != nil {
		return 0, err
	}
	sum := 0
	for _, m := range packets.FindAllStringSubmatch(out, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			return 0, fault.E("count packets", fault.Corrupt, err)
		}
		sum += n
	}
	return sum, nil
}

// name is the table's: no word that nft knows.
func (r *Rules) name() string { return "netns_" + r.Name }

func (r *Rules) add(ctx context.Context, chance string, match []string) error {
	script := table(r.name())
	if len(match) == 0 {
		match = []string{""}
	}
	for _, m := range match {
		script += rule(r.name(), chance, m)
	}
	_, err := nft(ctx, script)
	return err
}

// table makes the table, unless it is there.
func table(name string) string {
	return fmt.Sprintf("add table inet %s\nadd chain inet %s arriving { type filter hook input priority 0; }\n", name, name)
}

func rule(name, chance, match string) string {
	return fmt.Sprintf("add rule inet %s arriving %s %s counter drop\n", name, match, chance)
}

// nft runs a script: all of it or nothing.
func nft(ctx context.Context, script string) (string, error) {
	if err := private(); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fault.Errorf("change the rules", fault.Invalid, "nft: %w: %s\n%s", err, out, script)
	}
	return string(out), nil
}
