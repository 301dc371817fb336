package bridge

import (
	"context"
	"testing"
	"time"
)

// TestASyncWaitsUntilTheBridgeHasItsPlace: a browser that reads what it missed before the bridge
// knows where it begins would miss what is stored in between.
func TestASyncWaitsUntilTheBridgeHasItsPlace(t *testing.T) {
	placed := make(chan struct{})
	d := &Deps{placed: placed}
	done := make(chan struct{})
	go func() { d.awaitPlace(t.Context()); close(done) }()
	select {
	case <-done:
		t.Fatal("it did not wait")
	case <-time.After(20 * time.Millisecond):
	}
	close(placed)
	<-done
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	(&Deps{placed: make(chan struct{})}).awaitPlace(short) // Redis is away: not for ever
}
