package event

import (
	"strings"

	"eventspine/internal/fault"
)

// The reserved topics of the PUB/SUB wire. No event type begins with an underscore.
const (
	TopicUser = "_user." // + encoded user id: metadata changed, drop it from caches
	TopicMark = "_mark." // + partition: the head of a partition, once a second
	TopicAck  = "_ack."  // + source: stored up to this write-ahead log index
	TopicTo   = "_to."   // + encoded user id: every event for the user, given by the proxy to who subscribed to To(user) itself
	TopicSync = "_sync." // + a secret of the subscriber: the proxy's answer that its subscriptions are in effect
)

// Topic is the routing key of an event, type.userId, without the space that ends it on the
// wire. A subscriber to one user adds that space, so that user 42 never gets user 421's.
func Topic(typ, userID string) string { return typ + "." + EncodeUserID(userID) }

// To is the subscription to every event for the user, whatever its type. It ends with the space,
// and only the whole of it counts.
func To(userID string) string { return TopicTo + EncodeUserID(userID) + " " }

// EncodeUserID percent-encodes the bytes of a user id that would break a topic: dot, space,
// percent, and the control bytes.
func EncodeUserID(id string) string {
	if !strings.ContainsFunc(id, breaksTopic) {
		return id
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(id) {
		if c := id[i]; breaksTopic(rune(c)) {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func breaksTopic(r rune) bool { return r == '.' || r == ' ' || r == '%' || r < 0x20 || r == 0x7f }

// DecodeUserID is the inverse of EncodeUserID. Errors are of kind Corrupt.
func DecodeUserID(s string) (string, error) {
	if !strings.Contains(s, "%") {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) || unhex(s[i+1]) < 0 || unhex(s[i+2]) < 0 {
			return "", fault.Errorf("decode user id", fault.Corrupt, "bad percent-encoding in %q", s)
		}
		b.WriteByte(byte(unhex(s[i+1])<<4 | unhex(s[i+2])))
		i += 2
	}
	return b.String(), nil
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}
