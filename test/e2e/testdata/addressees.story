# Everybody gets a broadcast; a user gets what is theirs and never a neighbour's.
connect user4
connect user42
connect user421
send   id=b1 user=user42 type=notification.order
send   id=b2 user=* type=status.maintenance
send   id=b3 user=user421 type=notification.order.paid
expect user42 b1 b2
expect user421 b2 b3
expect user4 b2
silent user42 200ms
silent user4 50ms
