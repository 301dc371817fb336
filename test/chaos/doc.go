// Package chaos runs the real programs under a steady load while a seeded plan does its
// worst to them, writes down what was accepted, delivered, stored and indexed, and has a
// checker, which knows nothing of the system, look for what was lost, repeated or out of order.
//
//	make chaos SEED=7 SECONDS=120
package chaos
