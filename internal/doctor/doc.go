// Package doctor finds what keeps the services of one machine from working, and says how to mend
// it, without touching anything: it reads what the services would read, asks whom they would ask,
// and binds no port.
//
// It looks at: settings and secrets, CURVE keys, addresses and ports, disks, the clock, Redis and its
// policy, Elasticsearch and its index template, every endpoint a service connects to, and what
// systemd says of the units.
package doctor
