package topics

// slots keeps values under numbers from 1, and gives the numbers of those released again. The
// zero value is empty. What at gives holds until the next take.
type slots[T any] struct {
	values []T
	idle   []uint32
}

func (s *slots[T]) at(i uint32) *T { return &s.values[i-1] }

func (s *slots[T]) take(v T) uint32 {
	if last := len(s.idle) - 1; last >= 0 {
		i := s.idle[last]
		s.idle = s.idle[:last]
		*s.at(i) = v
		return i
	}
	s.values = append(s.values, v)
	return uint32(len(s.values))
}

func (s *slots[T]) release(i uint32) {
	var zero T
	*s.at(i) = zero
	s.idle = append(s.idle, i)
	if len(s.idle) == len(s.values) {
		*s = slots[T]{}
	}
}
