# `make help` lists the targets.

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
STATICCHECK   := honnef.co/go/tools/cmd/staticcheck@v0.8.2
TOOLS         := $(CURDIR)/.cache/bin

.PHONY: help build client test deploy-check rehearsal compose-test nginx-test outage-test dist test-short lint bench soak drain bench-zmq bench-socketio suites chaos fuzz generate clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build all programs into bin/
	go build -o bin/ ./cmd/...

client: ## build the JavaScript package in clients/js; needs Node and npm
	cd clients/js && npm ci --no-audit --no-fund && npm run build

test: ## every test, on real servers; installs what it needs and says so
	test/run.sh

deploy-check: ## the units, the templates and the compose file, without a cloud (part of `make test`)
	test/deploy/check.sh

rehearsal: ## the deployment on three machines of its own: systemd, firewall, UserData, kills and reboots
	test/rehearsal/run.sh

compose-test: ## docker-compose.yml for real: built, used, each process killed, taken down and brought up
	test/compose/run.sh

nginx-test: ## two bridges behind nginx, as deploy/nginx has it, restarted one after the other
	command -v nginx >/dev/null || apt-get install -y nginx-light
	EVENTSPINE_NGINX=1 go test ./test/e2e -run TestBehindNginx -count=1 -v

outage-test: ## Elasticsearch killed, and with a disk past its flood stage (two minutes)
	EVENTSPINE_OUTAGE=1 test/servers.sh go test -race -count=1 -v -run '^TestElasticsearchOutage$$' ./test/e2e

dist: ## tarballs and .deb packages in dist/, for ARCH (default amd64 and arm64) and VERSION
	VERSION=$(VERSION) deploy/package/dist.sh $(ARCH)

test-short: ## the tests that need nothing but Go (with a C compiler at hand, also the race detector)
	go test $(shell command -v gcc >/dev/null && echo -race) ./...

lint: ## vet, staticcheck, golangci-lint
	@mkdir -p $(TOOLS)
	@test -x $(TOOLS)/golangci-lint || { echo "building golangci-lint into .cache/bin"; GOBIN=$(TOOLS) go install $(GOLANGCI_LINT); }
	@test -x $(TOOLS)/staticcheck || { echo "building staticcheck into .cache/bin"; GOBIN=$(TOOLS) go install $(STATICCHECK); }
	go vet ./...
	$(TOOLS)/staticcheck ./...
	$(TOOLS)/golangci-lint run ./...

bench: ## drive the five processes for a minute and print figures
	ES_NICE=10 test/servers.sh go run ./bench

soak: ## send 1,000 events/s for SOAK (default 30m) and print what grew
	ES_NICE=10 test/servers.sh go run ./bench -soak $(or $(SOAK),30m) -rate 1000

drain: ## take EVENTS (default 1000000) while Elasticsearch is away and print how fast they go in when it is back
	test/servers.sh go run ./bench -drain $(or $(EVENTS),1000000) -rate 200 -for 2m

bench-zmq: ## our ZeroMQ sockets beside libzmq, as ratios; installs what it needs and says so
	bench/zmq/run.sh

bench-socketio: ## our Socket.IO server beside the official one for Node, as ratios
	bench/socketio/run.sh

suites: ## the public Socket.IO suites; CHECKOUT is a working tree of github.com/socketio/socket.io
	test/socketio/suites.sh $(CHECKOUT)

chaos: ## a load of SECONDS (default 120) at RATE (default 1000/s) under a plan of faults from SEED; says what was lost. NETWORK=1: on machines with addresses of their own, between which packets vanish or are late (Linux)
	CHAOS_NETWORK=$(NETWORK) CHAOS_SECONDS=$(or $(SECONDS),120) CHAOS_SEED=$(SEED) CHAOS_RATE=$(RATE) CHAOS_KINDS="$(KINDS)" test/servers.sh go test -count=1 -v -timeout 20m -run '^TestChaos$$' ./test/chaos

fuzz: ## run every fuzz target for FUZZTIME (default 30s)
	test/fuzz.sh $(or $(FUZZTIME),30s)

generate: ## write the generated pages anew
	go run ./cmd/eventspine config --markdown > docs/settings.md

clean: ## remove what was built and the tools
	rm -rf bin dist .cache
