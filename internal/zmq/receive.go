package zmq

import "context"

// Received is a message, or the error after which there are no more.
type Received struct {
	Msg Msg
	Err error
}

// Receive passes on what from receives, for a select with other events, until ctx ends or from
// fails; then it closes the channel. The reader ends it by ctx and reads until the channel is closed.
func Receive(ctx context.Context, from interface {
	Recv(context.Context) (Msg, error)
}) <-chan Received {
	in := make(chan Received)
	go func() {
		defer close(in)
		for {
			m, err := from.Recv(ctx)
			select {
			case in <- Received{m, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return in
}
