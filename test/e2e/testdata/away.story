# A browser that was away gets what it missed, once.
connect ana
send   id=a1 user=ana type=notification.order
expect ana a1
drop   ana
send   id=a2 user=ana type=notification.order
send   id=a2 user=ana type=notification.order   # a producer's retry
send   id=a3 user=ana type=alert.stock
send   id=a4 user=ana type=audit.stock          # no browser gets an audit
connect watch
send   id=w1 user=watch type=status.up
expect watch w1
connect ana
sync   ana a2 a3
silent ana 200ms
send   id=a5 user=ana type=notification.order
expect ana a5
