// Package rules decides what happens to an event between the door and the journal: it is
// dropped, it gets more members, or another event is derived from it. Rules are written in
// YAML, their conditions and values in the expression language of expr-lang/expr, and all of
// them are compiled and type-checked when the file is loaded.
//
//	rules:
//	  - name: drop-debug            # unique; letters, digits, _ and -
//	    match: debug.*              # a type, a prefix with .*, or *; or a list of these
//	    drop: true
//	  - name: large-order
//	    match: order.created
//	    when: (data?.amount ?? 0) >= 1000
//	    set: {priority: '"high"'}   # member: expression
//	  - name: order-notification
//	    match: order.created
//	    when: userId != ""
//	    derive:
//	      type: notification.order
//	      userId: data.buyer        # default: the same user
//	      data: {orderId: id}       # member: expression, or one expression for all of it
//
// Rules are tried in the order of the file; the first that drops ends the matter, and what a
// set rule changed is seen by the rules below it. Expressions see id, type, category, userId,
// timestamp (milliseconds), source, data and user (the metadata of the addressee, nil when
// there is none).
//
// A rule that cannot be evaluated does nothing: the event goes on as if the rule were not
// there, and the failure is reported. Expressions have no side effects, cannot see the clock,
// and are bounded in size and in the number of elements they may visit or make. Types
// that no rule matches cost one map look-up; data is decoded only for a rule that reads it.
package rules
