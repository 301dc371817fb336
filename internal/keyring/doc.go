// Package keyring turns CURVE_KEY and CURVE_PEERS into what ZeroMQ sockets need to prove who is at
// both ends of every connection.
//
// It guarantees that with a key every socket that asks it is a CURVE one, that a bound socket lets in
// nobody but the holders of the listed keys, and that a connecting one talks to nobody but the
// holder of the key that is listed for the endpoint. Whatever could lead to less than that is an
// error at the start. No error and no log line holds a secret key.
//
// A list of peers is text, one peer a line, as `eventspine keygen` writes it:
//
//	# name   public key                                 where it listens
//	worker   Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID   10.0.1.20:5557 10.0.1.20:5555
//	proxy    rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7   10.0.1.20
//	console  JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6
//
// Every peer of the list may connect. The key of the server behind tcp://host:port is that of the
// line with host:port, or else of the line with host. Hosts are compared as they are
// written: a name is not looked up. An ipc:// or inproc:// endpoint stands in the list as a whole.
package keyring
