package zmq

import "testing"

func TestPubSub(t *testing.T) {
	pub, ep := bound(t, Pub, Options{})
	sub := connected(t, Sub, Options{}, ep)
	if err := sub.Subscribe("a"); err != nil {
		t.Fatal(err)
	}
	subscriptions(t, pub, 1)
	send(t, pub, "b1")
	send(t, pub, "a1")
	expect(t, sub, "a1")
}

// subscriptions waits until pub's peers want n topics in all.
func subscriptions(t testing.TB, pub *Socket, n int) {
	t.Helper()
	eventually(t, "subscriptions", func() bool {
		sum := 0
		for _, p := range pub.Peers() {
			sum += p.Subscriptions
		}
		return sum == n
	})
}
