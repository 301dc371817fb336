/* The libzmq side of bench/zmq: one role of one exchange, the same as peer.go plays with our own
 * sockets. usage: peer ROLE NAME=VALUE...   (see peer.go for the roles and the values)
 *
 * What the other side has to know is printed as lines: "endpoint E", "pace E" and at the end
 * "result RECEIVED WRONG FIRST LAST P50 P99 ALLOCATIONS", times in nanoseconds. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zmq.h>

enum { TOPIC = 16, SEQ = 16, SENT = 24, HEAD = 32, PROBE_MS = 20, STALL_MS = 30000 };
static const uint64_t PROBE = UINT64_MAX;

static const char *front = "", *back = "", *pace = "", *curve = "";
static long size = 256, count = 1000, rate = 0, window = 0, subs = 1, topics = 1, subscribe = 1, id = 0, hwm = 1000;
static void *ctx;

static void die(const char *what) {
	fprintf(stderr, "libzmq peer: %s: %s\n", what, zmq_strerror(errno));
	exit(1);
}

static int64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Keys: curve is the server's public and secret and the client's public and secret, 40 characters each. */
static void *open_socket(int type, int server) {
	void *s = zmq_socket(ctx, type);
	int high = (int)hwm, stall = STALL_MS, yes = 1;
	if (!s) die("socket");
	zmq_setsockopt(s, ZMQ_SNDHWM, &high, sizeof high);
	zmq_setsockopt(s, ZMQ_RCVHWM, &high, sizeof high);
	zmq_setsockopt(s, ZMQ_RCVTIMEO, &stall, sizeof stall);
	zmq_setsockopt(s, ZMQ_SNDTIMEO, &stall, sizeof stall);
	if (strlen(curve) == 160) {
		char key[4][41] = {{0}};
		for (int i = 0; i < 4; i++) memcpy(key[i], curve + 40 * i, 40);
		if (server) {
			zmq_setsockopt(s, ZMQ_CURVE_SERVER, &yes, sizeof yes);
			if (zmq_setsockopt(s, ZMQ_CURVE_SECRETKEY, key[1], 41)) die("curve");
		} else {
			zmq_setsockopt(s, ZMQ_CURVE_SERVERKEY, key[0], 41);
			zmq_setsockopt(s, ZMQ_CURVE_PUBLICKEY, key[2], 41);
			if (zmq_setsockopt(s, ZMQ_CURVE_SECRETKEY, key[3], 41)) die("curve");
		}
	}
	return s;
}

static void bind_socket(void *s, const char *name) {
	char endpoint[256];
	size_t n = sizeof endpoint;
	if (zmq_bind(s, "tcp://127.0.0.1:*") || zmq_getsockopt(s, ZMQ_LAST_ENDPOINT, endpoint, &n)) die("bind");
	printf("%s %s\n", name, endpoint);
	fflush(stdout);
}

static void result(long received, long wrong, int64_t first, int64_t last, int64_t p50, int64_t p99) {
	printf("result %ld %ld %lld %lld %lld %lld 0\n", received, wrong, (long long)first, (long long)last,
		(long long)p50, (long long)p99);
	fflush(stdout);
}

/* The topic of message n: "t." with eight digits, and six dots. */
static void put_topic(char *b, uint64_t n) {
	memcpy(b, "t.00000000......", TOPIC);
	n %= (uint64_t)topics;
	for (int i = 9; n > 0 && i > 1; i--, n /= 10) b[i] = (char)('0' + n % 10);
}

/* A message: topic, its number, when it was sent, zeros, and the number's low byte at the end. */
static void fill(char *b, uint64_t n) {
	int64_t t = rate ? now() : 0;
	put_topic(b, n == PROBE ? (uint64_t)topics - 1 : n);
	memcpy(b + SEQ, &n, 8);
	memcpy(b + SENT, &t, 8);
	b[size - 1] = (char)n;
}

/* Sleeps until message n of rate messages a second is due. */
static void await(int64_t start, long n) {
	for (;;) {
		int64_t wait = start + (int64_t)((double)n / (double)rate * 1e9) - now();
		if (wait <= 0) return;
		struct timespec t = {wait / 1000000000, wait % 1000000000};
		nanosleep(&t, 0);
	}
}

static void send_all(void *s, void *acks) {
	char *b = calloc(1, (size_t)size);
	int64_t start = now(), first = start;
	long *seen = calloc((size_t)subs, sizeof *seen), least = 0;
	for (long i = 0; i < count; i++) {
		while (acks && (i - least >= window)) {
			uint64_t ack[2];
			if (zmq_recv(acks, ack, sizeof ack, 0) != sizeof ack) die("no progress");
			if (ack[0] < (uint64_t)subs) seen[ack[0]] = (long)ack[1];
			least = seen[0];
			for (long k = 1; k < subs; k++) if (seen[k] < least) least = seen[k];
		}
		if (rate) await(start, i);
		fill(b, (uint64_t)i);
		if (zmq_send(s, b, (size_t)size, 0) < 0) die("send");
	}
	result(count, 0, first, now(), 0, 0);
	free(b);
	free(seen);
}

static void push(void) {
	void *s = open_socket(ZMQ_PUSH, 0);
	if (zmq_connect(s, front)) die("connect");
	send_all(s, NULL);
	zmq_close(s);
}

/* Publishes probes until every subscriber has answered one, so that no message is lost. */
static void probe(void *s, void *acks) {
	char *b = calloc(1, (size_t)size), *answered = calloc((size_t)subs, 1);
	int quick = PROBE_MS, stall = STALL_MS;
	zmq_setsockopt(acks, ZMQ_RCVTIMEO, &quick, sizeof quick);
	for (long left = subs, tries = 0; left > 0;) {
		uint64_t ack[2];
		fill(b, PROBE);
		if (++tries > STALL_MS / PROBE_MS) die("no subscriber");
		if (zmq_send(s, b, (size_t)size, 0) < 0) die("send");
		while (left > 0 && zmq_recv(acks, ack, sizeof ack, 0) == sizeof ack)
			if (ack[0] < (uint64_t)subs && !answered[ack[0]]) answered[ack[0]] = 1, left--;
	}
	zmq_setsockopt(acks, ZMQ_RCVTIMEO, &stall, sizeof stall);
	free(b);
	free(answered);
}

static void pub(void) {
	void *s = open_socket(ZMQ_PUB, 0), *acks = open_socket(ZMQ_PULL, 0);
	bind_socket(acks, "pace");
	if (*front ? zmq_connect(s, front) : 0) die("connect");
	if (!*front) bind_socket(s, "endpoint");
	probe(s, acks);
	send_all(s, acks);
	zmq_close(s);
	zmq_close(acks);
}

static int compare(const void *a, const void *b) {
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return x < y ? -1 : x > y;
}

static void receive(void *s, void *acks) {
	char *b = malloc((size_t)size + 64);
	int64_t *late = rate ? malloc(sizeof *late * (size_t)count) : NULL, first = 0, last = 0;
	long n = 0, wrong = 0, answered = 0;
	while (n < count) {
		int k = zmq_recv(s, b, (size_t)size + 64, 0);
		uint64_t number;
		int64_t sent, t;
		if (k < 0) break;
		if (k < HEAD) {
			wrong++;
			continue;
		}
		memcpy(&number, b + SEQ, 8);
		if (number == PROBE) {
			uint64_t ack[2] = {(uint64_t)id, 0};
			if (acks && !answered++ && zmq_send(acks, ack, sizeof ack, 0) < 0) die("ack");
			continue;
		}
		if (!n) first = now();
		wrong += number != (uint64_t)n || k != size || b[size - 1] != (char)number;
		if (late) {
			t = now();
			memcpy(&sent, b + SENT, 8);
			late[n] = t - sent;
		}
		n++;
		if (acks && n % (window / 20) == 0) {
			uint64_t ack[2] = {(uint64_t)id, (uint64_t)n};
			if (zmq_send(acks, ack, sizeof ack, 0) < 0) die("ack");
		}
	}
	last = now();
	if (late && n > 0) qsort(late, (size_t)n, sizeof *late, compare);
	result(n, wrong, first, last, late && n > 0 ? late[n / 2] : 0, late && n > 0 ? late[(n - 1) * 99 / 100] : 0);
	free(b);
	free(late);
}

static void pull(void) {
	void *s = open_socket(ZMQ_PULL, 1);
	bind_socket(s, "endpoint");
	receive(s, NULL);
	zmq_close(s);
}

static void sub(void) {
	void *s = open_socket(ZMQ_SUB, 0), *acks = open_socket(ZMQ_PUSH, 0);
	int none = 0;
	if (zmq_connect(s, back) || zmq_connect(acks, pace)) die("connect");
	if (subscribe <= 1) zmq_setsockopt(s, ZMQ_SUBSCRIBE, "t.", 2);
	for (long i = 0; subscribe > 1 && i < subscribe; i++) {
		char topic[TOPIC];
		put_topic(topic, (uint64_t)i);
		zmq_setsockopt(s, ZMQ_SUBSCRIBE, topic, 11);
	}
	receive(s, acks);
	zmq_setsockopt(acks, ZMQ_LINGER, &none, sizeof none); /* nobody needs the last acknowledgements */
	zmq_close(s);
	zmq_close(acks);
}

/* Runs until it is killed. */
static void proxy(void) {
	void *x = open_socket(ZMQ_XSUB, 1), *y = open_socket(ZMQ_XPUB, 1);
	bind_socket(x, "endpoint");
	bind_socket(y, "back");
	zmq_proxy(x, y, NULL);
}

static void option(char *arg) {
	static const struct {
		const char *name;
		const char **text;
		long *number;
	} known[] = {{"front", &front, 0}, {"back", &back, 0}, {"pace", &pace, 0}, {"curve", &curve, 0}, {"size", 0, &size},
		{"count", 0, &count}, {"rate", 0, &rate}, {"window", 0, &window}, {"subs", 0, &subs}, {"topics", 0, &topics},
		{"subscribe", 0, &subscribe}, {"id", 0, &id}, {"hwm", 0, &hwm}};
	char *value = strchr(arg, '=');
	for (size_t i = 0; value && i < sizeof known / sizeof *known; i++) {
		if (strlen(known[i].name) != (size_t)(value - arg) || strncmp(arg, known[i].name, (size_t)(value - arg))) continue;
		if (known[i].text) *known[i].text = value + 1;
		else *known[i].number = atol(value + 1);
		return;
	}
	fprintf(stderr, "libzmq peer: what is %s?\n", arg);
	exit(2);
}

int main(int argc, char **argv) {
	static const struct {
		const char *name;
		void (*play)(void);
	} roles[] = {{"push", push}, {"pull", pull}, {"pub", pub}, {"sub", sub}, {"proxy", proxy}};
	for (int i = 2; i < argc; i++) option(argv[i]);
	if (size <= HEAD || topics < 1) return 2;
	ctx = zmq_ctx_new();
	for (size_t i = 0; argc > 1 && i < sizeof roles / sizeof *roles; i++) {
		if (strcmp(argv[1], roles[i].name)) continue;
		roles[i].play();
		zmq_ctx_term(ctx);
		return 0;
	}
	return 2;
}
