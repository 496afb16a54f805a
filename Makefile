# SPDX-License-Identifier: GPL-3.0-or-later
#
# Needs Go and make. `make help` lists the targets.

GO       ?= go
PREFIX   ?= /usr/local
DESTDIR  ?=
FUZZTIME ?= 60s
FUZZKEEP ?= 16
PKG      ?= ./...
COUNT    ?= 10

BINDIR    = $(DESTDIR)$(PREFIX)/bin
MANDIR    = $(DESTDIR)$(PREFIX)/share/man
PLUGINDIR = $(DESTDIR)$(PREFIX)/lib/flexnbd/plugins

# A source tarball has a VERSION file, a clone asks git, and neither puts a time
# or a path into the binaries: the same source gives the same bytes.
VERSION := $(shell cat VERSION 2>/dev/null || git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS    = -X main.version=$(VERSION)
BUILDFLAGS = -trimpath -buildvcs=false

# The race detector needs a C compiler.
CC_FOUND := $(shell command -v $(firstword $(shell $(GO) env CC)) 2>/dev/null)
RACE      = $(if $(CC_FOUND),-race,)

.DEFAULT_GOAL := build
.PHONY: build test test-examples vet demo lint lint-arrows fmt-check man-check fuzz bench bench-compare soak \
	proto proto-check changelog changelog-check dist dist-sdk install uninstall clean help

build: ## bin/flexnbd and the separate plugin binaries (the default)
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

vet:
	$(GO) vet ./...
	$(GO) vet -tags debug,failpoints,examples ./...

test: build ## all tests, with the race detector where there is a C compiler
ifeq ($(RACE),)
	@echo 'make test: no C compiler ($(shell $(GO) env CC)) found: running WITHOUT the race detector' >&2
endif
	GO='$(GO)' tools/test.sh $(RACE)

test-examples: ## build and test examples/ as third parties would, with the SDK as it is shipped
	$(GO) test -tags examples -run TestExamples -count 1 -timeout 10m ./test/e2e

demo: build ## serve an image, write and read it, show status and processes
	./test/demo.sh

lint: fmt-check vet lint-arrows bin/tools/golangci-lint ## format, linters, layers, tidy go.mod
	bin/tools/golangci-lint run ./...
	$(GO) mod tidy -diff

# A linter rule that no longer fires looks like a clean tree.
lint-arrows: bin/tools/golangci-lint ## prove that the layer rules catch what they forbid
	$(GO) run -C tools ./lintarrows '$(CURDIR)/bin/tools/golangci-lint' '$(CURDIR)/.golangci.yml'

fmt-check:
	@files=$$(find . -name '*.go' -not -path './bin/*' -not -path './.git/*' -exec gofmt -l {} +); \
	if [ -n "$$files" ]; then echo "not formatted, run gofmt -w on:" $$files >&2; exit 1; fi

man-check: ## the manual page is well formed (needs mandoc)
	mandoc -T lint -W warning docs/*.1

fuzz: ## run each fuzz target (in PKG) for FUZZTIME (60s), keep some of what it found
	GO='$(GO)' FUZZKEEP='$(FUZZKEEP)' tools/fuzz.sh '$(FUZZTIME)' $(PKG)

bench: build ## flexnbd's own figures, side by side with other NBD servers (root for loop devices), migrations (an hour in all), Go benchmarks
	$(GO) run ./bench
	$(GO) run ./bench compare
	$(GO) run ./bench migrate
	$(GO) test -run '^$$' -bench . -benchmem $(PKG)

bench-compare: bin/tools/benchstat ## Go benchmarks (in PKG, COUNT times) of this tree and of REF, in turns
	@test -n '$(REF)' || { echo 'usage: make bench-compare REF=commit [PKG=./core/nbd] [COUNT=10]' >&2; exit 2; }
	GO='$(GO)' COUNT='$(COUNT)' tools/bench-compare.sh '$(REF)' $(PKG)

soak: build ## the long tests, until they end
	$(GO) test -tags soak -run Soak -timeout 0 -count 1 -v ./test/...
	FLEXNBD_E2E_RACE=1 CGO_ENABLED=1 $(GO) test -race -timeout 0 -count 1 ./test/e2e ./test/crash ./test/conformance ./test/python-plugin ./core/check

proto: bin/tools/protoc-gen-go bin/tools/protoc-gen-go-grpc ## generate the Go code of the .proto files (needs protoc)
	tools/proto.sh write

proto-check: bin/tools/protoc-gen-go bin/tools/protoc-gen-go-grpc ## fail when the committed code is not what proto makes
	tools/proto.sh check

changelog: ## join changelog/unreleased into CHANGELOG.md
	tools/changelog.sh write

changelog-check: ## fail when CHANGELOG.md is not what changelog makes
	tools/changelog.sh check

dist: dist-sdk ## what is shipped: dist/goproxy, the SDK as a Go module proxy

SDK_VERSION = v$(shell sed -n 's/^const Version = "\(.*\)"$$/\1/p' sdk/serve.go)

# A folder that third parties, and the examples, get the SDK from.
dist-sdk:
	rm -rf dist/goproxy
	$(GO) run -C tools ./goproxy '$(CURDIR)' '$(SDK_VERSION)' '$(CURDIR)/dist/goproxy'

install: | bin/flexnbd ## into PREFIX (/usr/local), below DESTDIR
	install -d -m 755 '$(BINDIR)' '$(MANDIR)/man1' '$(PLUGINDIR)'
	install -m 755 bin/flexnbd '$(BINDIR)/flexnbd'
	install -m 755 bin/flexnbd-backend-* bin/flexnbd-transport-* '$(PLUGINDIR)/'
	install -m 644 docs/flexnbd.1 '$(MANDIR)/man1/flexnbd.1'

uninstall: ## what install put there, and plugins of the same names
	rm -f '$(BINDIR)/flexnbd' '$(MANDIR)/man1/flexnbd.1'
	for plugin in cmd/flexnbd-*; do rm -f "$(PLUGINDIR)/$${plugin#cmd/}"; done
	-rmdir '$(PLUGINDIR)' '$(DESTDIR)$(PREFIX)/lib/flexnbd'

clean: ## remove what was built
	rm -rf bin dist

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

bin/flexnbd:
	$(MAKE) build

# Developers' tools, in the versions that tools/go.mod names.
bin/tools/golangci-lint: TOOL = github.com/golangci/golangci-lint/v2/cmd/golangci-lint
bin/tools/protoc-gen-go: TOOL = google.golang.org/protobuf/cmd/protoc-gen-go
bin/tools/protoc-gen-go-grpc: TOOL = google.golang.org/grpc/cmd/protoc-gen-go-grpc
bin/tools/benchstat: TOOL = golang.org/x/perf/cmd/benchstat
bin/tools/golangci-lint bin/tools/protoc-gen-go bin/tools/protoc-gen-go-grpc bin/tools/benchstat: tools/go.mod tools/go.sum
	@mkdir -p bin/tools
	CGO_ENABLED=0 $(GO) build -C tools $(BUILDFLAGS) -o '../$@' $(TOOL)
	@touch '$@'
