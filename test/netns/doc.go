// Package netns runs a test once more in a network namespace of its own, in which nothing but the
// test's own processes lives, and drops packets there as a broken network does: a connection
// vanishes with no FIN and no RST, and whoever waits for the other end waits.
//
//	func TestTheCableIsPulled(t *testing.T) {
//		if !netns.Rerun(t) {
//			return // it ran in the namespace, and t has its outcome
//		}
//		var rules netns.Rules
//		...
//		err := rules.Drop(t.Context(), netns.Ports(port)...) // gone, both ways
//		...
//		err = rules.Heal(t.Context()) // packets flow; TCP sends again what is missing
//	}
//
// Net joins several namespaces as machines with addresses of their own, between which packets may
// be late as well.
//
// It needs Linux and the programs ip and nft (the Debian packages iproute2 and nftables). Who is not
// root gets a user namespace besides, where the kernel allows that.
package netns
