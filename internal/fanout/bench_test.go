package fanout

import (
	"context"
	"testing"

	"eventspine/internal/event"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

// noReader is a journal that nobody needs.
type noReader struct{ b testing.TB }

func (noReader) Head(context.Context, int) (seq, epoch uint64, err error) { return 1, 1, nil }

func (r noReader) Read(_ context.Context, p int, after uint64, _ int) ([][]byte, error) {
	r.b.Errorf("partition %d was read after %d", p, after)
	return nil, nil
}

// BenchmarkRecv: events that come in order, over one connection, to a bare Subscriber and to a
// Follower.
func BenchmarkRecv(b *testing.B) {
	for _, follow := range []bool{false, true} {
		name := map[bool]string{false: "subscriber", true: "follower"}[follow]
		b.Run(name, func(b *testing.B) {
			pub := zmq.New(zmq.Pub, zmq.Options{SndHWM: 10_000_000, SndBytes: 1 << 30})
			endpoint, err := pub.Bind(context.Background(), "tcp://127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			sub := subscriber(b, SubscriberOptions{Endpoints: []string{endpoint}, Topics: []string{""}})
			recv := func() error { _, err := sub.Recv(context.Background()); return err }
			start := func(int) (uint64, uint64, bool) { return 1, 1, true }
			f, err := NewFollower(FollowerOptions{Subscriber: sub, Journal: noReader{b}, Partitions: 16, Start: start})
			if err != nil {
				b.Fatal(err)
			}
			if follow {
				recv = func() error { _, err := f.Recv(context.Background()); return err }
			}
			for p := range f.lanes { // as if Recv had begun, but for the first look at the journal
				f.begun = true
				f.lanes[p].Place(1, 1)
			}
			testkit.Eventually(b, patience, func() bool { return len(pub.Peers()) > 0 && pub.Peers()[0].Subscriptions > 0 }, "subscribed")
			body := []byte(`{"id":"0191d5e4-7b1f-7cc0-8d2e-0123456789ab","type":"notification.order","userId":"42","timestamp":1700000000000,"data":{"order":12345,"text":"your order is on its way to you now"},"processed":true,"processedAt":1700000000001,"latencyMs":1}`)
			msgs := make([]zmq.Msg, b.N)
			for i := range msgs {
				at := event.Position{Partition: i % 16, Seq: uint64(i/16 + 2), Epoch: 1, Prev: event.Prev{Feed: uint64(i/16 + 1)}}
				msgs[i] = zmq.Msg{append([]byte("notification.order.42 "), event.Splice(body, event.AppendPosition(nil, at))...)}
			}
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				for _, m := range msgs {
					_ = pub.TrySend(m) // a full queue would show as a gap
				}
			}()
			for range msgs {
				if err := recv(); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			_ = f.Close(context.Background())
			_ = pub.Close(context.Background())
		})
	}
}

// BenchmarkTake is the follower's own part of that.
func BenchmarkTake(b *testing.B) {
	_, xpub := proxy(b)
	sub := subscriber(b, SubscriberOptions{Endpoints: []string{xpub}, Topics: []string{""}})
	f, err := NewFollower(FollowerOptions{Subscriber: sub, Journal: noReader{b}, Partitions: 1})
	if err != nil {
		b.Fatal(err)
	}
	f.lanes[0].Place(0, 1)
	msgs := make([]Message, 100_000)
	for i := range msgs {
		at := event.AppendPosition(nil, event.Position{Seq: uint64(i + 1), Epoch: 1})
		msgs[i] = Message{"notification.order.42", event.Splice([]byte(`{"id":"0191d5e4","type":"notification.order","userId":"42"}`), at)}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok := f.take(msgs[i]); !ok {
			b.Fatalf("message %d was not handed out", i)
		}
		if i++; i == len(msgs) {
			f.lanes[0].Place(0, 1)
			i = 0
		}
	}
}
