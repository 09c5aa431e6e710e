# Each target installs what it needs. `make help` lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Words behind a target, e.g. make replay ARGS=--json.
ARGS ?=

clients := mq-core/mq-testkit/clients
java_jars := target/java-clients/java-clients.jar target/java-clients-4/java-clients.jar
mqadmin_jar := target/mqadmin/mqadmin.jar
bench_txn_jar := target/bench-txn/bench-txn.jar
go_program := target/go-clients/go-clients
apache := mq-core/mq-testkit/clients/apache
sudo := $(if $(filter-out 0,$(shell id -u)),sudo)

# $(call need,COMMAND,PACKAGE): installs the Debian package unless the command is there.
need = command -v $(1) >/dev/null || { echo "installing $(2)"; $(sudo) apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive $(sudo) apt-get install -y -qq $(2) >/dev/null; }

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## All programs, optimised: target/release/{mq,order-service,seckill-demo}
	cargo build --release --workspace --bins

.PHONY: test
test: redis databases clients apache ## Format, lints, then every test: unit, tables, properties, crashes, official clients, the proof
	rm -rf target/report
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo build --workspace --bins
	cargo test --workspace $(ARGS)
	cargo test --workspace --features mq-store/failpoints,txn-sdk/failpoints --test it -- failpoints:: crashes::
	cargo clippy -p mq-testkit -p txn-sdk -p txn-coordinator --features mq-testkit/proof --all-targets -- -D warnings
	cargo test -p mq-testkit --features proof --test it -- proof::
	cargo test -p mq-testkit --features proof --test it -- --ignored --nocapture report::

.PHONY: demo
demo: redis build ## The whole shop on this machine until Ctrl-C; CHECK=1 tries all of it and stops
	target/release/seckill-demo up $(if $(CHECK),--check) $(ARGS)

# Programs that die where they are told to. They are moved out of the way of the ordinary ones: `make build` puts those
# back without compiling them again.
replay_programs := target/replay
replay_features := mq-server/failpoints,seckill-demo/failpoints

.PHONY: replay
replay: redis ## "Paid but no red packet", replayed under kill -9: naive and transactional side by side
	@cargo build --quiet --release --workspace --bins --features $(replay_features) >&2
	@mkdir -p $(replay_programs)
	@mv target/release/{mq,order-service,seckill-demo} $(replay_programs)
	@$(replay_programs)/seckill-demo replay paid-no-red-packet $(ARGS)

.PHONY: bench
bench: build ## Throughput and latency of `mq up`, SYNC_FLUSH and ASYNC_FLUSH
	target/release/mq bench suite $(ARGS)

.PHONY: bench-apache
bench-apache: apache build ## The table of goals: Apache RocketMQ 5.5 and ours, driven in turn by `mq bench`
	@MQ_BIN=$(CURDIR)/target/release/mq cargo run --quiet --release -p mq-testkit --bin bench-apache -- $(ARGS)

.PHONY: replay-apache
replay-apache: apache target/java-clients/java-clients.jar ## Public tickets about transactions, played against Apache RocketMQ 5.5 and ours side by side
	@cargo build --quiet --release --bin mq
	@MQ_BIN=$(CURDIR)/target/release/mq cargo run --quiet --release -p mq-testkit --bin replay-apache -- $(ARGS)

.PHONY: bench-txn
bench-txn: apache databases build $(bench_txn_jar) ## Transactions end to end: the SDK, an outbox with a relay, the Java client on Apache
	@MQ_BIN=$(CURDIR)/target/release/mq cargo bench --quiet -p txn-sdk --bench txn -- $(ARGS)

.PHONY: clients
clients: $(java_jars) $(mqadmin_jar) $(go_program) ## The programs that run official clients and mqadmin against our broker

# $(call jar,POM,MORE): builds one with Maven.
define jar
	@$(call need,javac,default-jdk-headless)
	@$(call need,mvn,maven)
	mvn --quiet --batch-mode --file $(1) $(2) package
	@touch $@
endef

java_sources := $(clients)/java/pom.xml $(shell find $(clients)/java/src -name '*.java')

target/java-clients/java-clients.jar: $(java_sources)
	$(call jar,$<)

target/java-clients-4/java-clients.jar: $(java_sources)
	$(call jar,$<,--activate-profiles client-4)

$(mqadmin_jar): $(clients)/mqadmin/pom.xml $(shell find $(clients)/mqadmin/src -name '*.java')
	$(call jar,$<)

$(bench_txn_jar): $(clients)/bench-txn/pom.xml $(shell find $(clients)/bench-txn/src -name '*.java')
	$(call jar,$<)

$(go_program): $(wildcard $(clients)/go/*)
	@$(call need,go,golang-go)
	cd $(clients)/go && go build -buildvcs=false -o $(abspath $@) .

.PHONY: apache
apache: target/apache/fetched ## Apache RocketMQ's own broker, to compare with

target/apache/fetched: $(apache)/pom.xml
	@$(call need,java,default-jdk-headless)
	@$(call need,mvn,maven)
	mvn --quiet --batch-mode --file $(apache)/pom.xml package
	@touch $@

.PHONY: redis
redis:
	@$(call need,redis-server,redis-server)

# The servers only: nothing is started by them. PostgreSQL's are not in PATH.
.PHONY: databases
databases: target/mysql/unpacked
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { $(call need,initdb,postgresql); }
	@$(call need,mariadb-install-db,mariadb-server-core)
	@$(call need,my_print_defaults,mariadb-client-core)

# This release of Debian has no MySQL, its next one has: unpacked here with its libraries, not installed. A mirror of that
# release may be older than its signature says.
next_debian := deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main
apt_next = apt-get -qq -o Dir::State=$(CURDIR)/$(@D)/apt -o Dir::Cache=$(CURDIR)/$(@D)/apt -o Dir::Etc::sourceparts=- \
	-o Dir::Etc::sourcelist=$(CURDIR)/$(@D)/apt/sources -o Dir::State::status=$(CURDIR)/$(@D)/apt/installed \
	-o Acquire::Check-Valid-Until=false -o Acquire::Retries=3 -o APT::Sandbox::User= -o Debug::NoLocking=true

target/mysql/unpacked:
	@rm -rf $(@D) && mkdir -p $(@D)/apt/{lists,archives}/partial
	@echo '$(next_debian)' >$(@D)/apt/sources && touch $(@D)/apt/installed
	@echo "fetching mysql-server-core"
	@$(apt_next) update
	@$(apt_next) install --yes --no-install-recommends --download-only mysql-server-core
	@for package in $(@D)/apt/archives/*.deb; do dpkg-deb --extract $$package $(@D); done
	@rm -rf $(@D)/apt
	@touch $@

.PHONY: clean
clean: ## Removes everything that was built
	rm -rf target
