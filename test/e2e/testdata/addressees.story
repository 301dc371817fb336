# Everybody gets a broadcast; a user gets what is theirs and never a neighbour's.
connect user4
connect user42
connect user421
# The order of a user's own events and of those for everybody is each its own.
send   id=b1 user=user42 type=notification.order
expect user42 b1
send   id=b2 user=* type=status.maintenance
expect user42 b2
expect user421 b2
expect user4 b2
send   id=b3 user=user421 type=notification.order.paid
expect user421 b3
silent user42 200ms
silent user4 50ms
