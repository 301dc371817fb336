# The default rules: debug events go nowhere, an order becomes a notification for its user.
connect ana
send   id=d1 user=ana type=debug.trace
send   id=n1 user=ana type=notification.debug
expect ana n1
silent ana 100ms
