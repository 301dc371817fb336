// Package model searches all states that the pipeline with acknowledgements can get into, in
// the small: a few events, two workers, one Redis, and a handful of faults in every order. It
// tries the protocol, not the code; test/chaos tries the code.
package model

import (
	"fmt"
	"hash/maphash"
	"strings"
)

// Move is one thing that may happen next.
type Move[S comparable] struct {
	Name string
	To   S
	Fair bool // happens sooner or later when it stays possible; faults and callers do not
}

// System is a graph of states. Its functions are called from one goroutine.
type System[S comparable] struct {
	Start S
	Next  func(S, func(Move[S])) // hands out what may happen in a state
	Check func(S) string         // what does not hold in a state; empty: all does
	Good  func(S) bool           // a state in which nothing is owed to anybody
	Show  func(S) string
}

// Result is what a search saw. Broken and Trace are empty when nothing was found.
type Result struct {
	States, Moves int
	Broken        string // what does not hold
	Trace         string // how it comes to that, one line a move
}

type node struct {
	from int32 // the state it was first reached from
	name string
}

type search[S comparable] struct {
	sys    System[S]
	seed   maphash.Seed
	at     map[uint64]int32 // by hash, the next free one where two states share it
	states []S
	via    []node
	first  []int32 // for each state, where its fair moves begin in fair
	fair   []int32
	moves  int
}

// Search visits every state breadth first, so that a trace is a shortest one, and then looks
// whether each run without further faults comes to a good end: no dead end, no circle. It
// gives up beyond limit states.
func Search[S comparable](sys System[S], limit int) (Result, error) {
	x := &search[S]{sys: sys, seed: maphash.MakeSeed(), at: map[uint64]int32{}}
	x.add(sys.Start, -1, "start")
	for i := int32(0); int(i) < len(x.states); i++ {
		if len(x.states) > limit {
			return x.result(), fmt.Errorf("more than %d states", limit)
		}
		if broken := x.sys.Check(x.states[i]); broken != "" {
			r := x.result()
			r.Broken, r.Trace = broken, x.trace(i)
			return r, nil
		}
		x.expand(i)
	}
	x.first = append(x.first, int32(len(x.fair)))
	r := x.result()
	r.Broken, r.Trace = x.badEnd()
	return r, nil
}

func (x *search[S]) result() Result { return Result{States: len(x.states), Moves: x.moves} }

func (x *search[S]) expand(i int32) {
	x.first = append(x.first, int32(len(x.fair)))
	x.sys.Next(x.states[i], func(m Move[S]) {
		x.moves++
		to := x.add(m.To, i, m.Name)
		if m.Fair && to != i {
			x.fair = append(x.fair, to)
		}
	})
}

// add finds the state's number, or gives it one.
func (x *search[S]) add(s S, from int32, name string) int32 {
	for h := maphash.Comparable(x.seed, s); ; h++ {
		i, ok := x.at[h]
		if ok && x.states[i] != s {
			continue
		}
		if !ok {
			i = int32(len(x.states))
			x.at[h], x.states, x.via = i, append(x.states, s), append(x.via, node{from, name})
		}
		return i
	}
}

// badEnd looks for a state without fair moves that is not good, and for a circle of fair
// moves that passes no good state: depth first, with a stack of its own.
func (x *search[S]) badEnd() (broken, trace string) {
	const fresh, open, closed = 0, 1, 2
	mark := make([]byte, len(x.states))
	type frame struct{ at, edge int32 }
	for root := range x.states {
		if mark[root] != fresh {
			continue
		}
		stack := []frame{{int32(root), x.first[root]}}
		mark[root] = open
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			i := top.at
			good := x.sys.Good(x.states[i])
			if !good && x.first[i] == x.first[i+1] {
				return "a dead end: something is owed and nothing happens any more", x.trace(i)
			}
			if good || top.edge == x.first[i+1] {
				mark[i] = closed
				stack = stack[:len(stack)-1]
				continue
			}
			to := x.fair[top.edge]
			top.edge++
			switch mark[to] {
			case fresh:
				mark[to] = open
				stack = append(stack, frame{to, x.first[to]})
			case open:
				return "a circle: it goes on without faults for ever and comes to no good end", x.trace(to)
			}
		}
	}
	return "", ""
}

// trace tells how the state is reached.
func (x *search[S]) trace(i int32) string {
	var lines []string
	for ; i >= 0; i = x.via[i].from {
		lines = append(lines, fmt.Sprintf("%-44s %s", x.via[i].name, x.sys.Show(x.states[i])))
	}
	var b strings.Builder
	for n := len(lines) - 1; n >= 0; n-- {
		fmt.Fprintf(&b, "%3d. %s\n", len(lines)-1-n, lines[n])
	}
	return b.String()
}
