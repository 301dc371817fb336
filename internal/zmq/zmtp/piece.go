package zmtp

// piece is a short message of one frame in a single piece of memory: the list of frames and the frame.
type piece[B any] struct {
	list [1][]byte
	body B
}

// together gives a message of one frame of size bytes, zeroed, in one allocation; nil when it is too long
// for that. The sizes, with the list, are some of those that the runtime allocates in any case.
func together(size uint64) [][]byte {
	switch {
	case size <= 40:
		p := new(piece[[40]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 72:
		p := new(piece[[72]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 104:
		p := new(piece[[104]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 136:
		p := new(piece[[136]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 168:
		p := new(piece[[168]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 200:
		p := new(piece[[200]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 232:
		p := new(piece[[232]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 264:
		p := new(piece[[264]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 328:
		p := new(piece[[328]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 424:
		p := new(piece[[424]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 488:
		p := new(piece[[488]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 608:
		p := new(piece[[608]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 736:
		p := new(piece[[736]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 992:
		p := new(piece[[992]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 1120:
		p := new(piece[[1120]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 1504:
		p := new(piece[[1504]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	case size <= 2016:
		p := new(piece[[2016]byte])
		p.list[0] = p.body[:size:size]
		return p.list[:]
	}
	return nil
}
