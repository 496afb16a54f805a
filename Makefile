# SPDX-License-Identifier: GPL-3.0-or-later
#
# Needs Go and make. `make help` lists the targets.

GO       ?= go
PREFIX   ?= /usr/local
DESTDIR  ?=
ZSHDIR   ?= share/zsh/site-functions
BIN      ?= bin
FUZZTIME ?= 60s
FUZZKEEP ?= 16
PKG      ?= ./...
COUNT    ?= 10

# Neither a time nor a path is put into the binaries: the same source gives the same bytes.
VERSION := $(shell tools/version.sh version)
LDFLAGS    = -X main.version=$(VERSION)
BUILDFLAGS = -trimpath -buildvcs=false

# The race detector needs a C compiler.
CC_FOUND := $(shell command -v $(firstword $(shell $(GO) env CC)) 2>/dev/null)
RACE      = $(if $(CC_FOUND),-race,)

.DEFAULT_GOAL := build
.PHONY: build test test-examples vet demo lint lint-arrows fmt-check man-check fuzz bench bench-compare soak \
	proto proto-check changelog changelog-check third-party third-party-check \
	dist dist-sdk dist-check package-test install uninstall clean help

build: ## bin/flexnbd and the separate plugin binaries (the default)
	@mkdir -p '$(BIN)'
	CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) -ldflags '$(LDFLAGS)' -o '$(BIN)/' ./cmd/...

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

man-check: ## the manual pages are well formed (needs mandoc)
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

third-party: ## packaging/third-party.txt, the licences of what is linked in
	GO='$(GO)' tools/third-party.sh write

third-party-check: ## fail when packaging/third-party.txt is not what third-party makes
	GO='$(GO)' tools/third-party.sh check

# Packages have no symbols for a debugger in them; stack traces need none.
dist: dist-sdk bin/tools/nfpm bin/tools/cyclonedx-gomod ## what is shipped, in dist/: bundles, .deb, .rpm, source tarball, SBOM, dist/goproxy
	$(MAKE) build BIN=bin/dist LDFLAGS='$(LDFLAGS) -s -w'
	GO='$(GO)' tools/dist.sh bin/dist '$(VERSION)'

SDK_VERSION = v$(shell sed -n 's/^const Version = "\(.*\)"$$/\1/p' sdk/serve.go)

dist-sdk: ## dist/goproxy: the SDK as a Go module proxy, for plugins built elsewhere
	rm -rf dist/goproxy
	$(GO) run -C tools ./goproxy '$(CURDIR)' '$(SDK_VERSION)' '$(CURDIR)/dist/goproxy'

dist-check: dist ## build dist/ again, elsewhere, of the source tarball: the bytes must be the same
	GO='$(GO)' test/packages/reproducible.sh

package-test: ## use the packages of dist/ in clean Debian roots (as root, on Debian; make dist first)
	test/packages/run.sh

INSTALL = DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' ZSHDIR='$(ZSHDIR)' BIN='$(BIN)' tools/install.sh

install: | $(BIN)/flexnbd ## what packaging/files lists, into PREFIX (/usr/local), below DESTDIR
	$(INSTALL) install

uninstall: ## what install put there
	$(INSTALL) uninstall

clean: ## remove what was built
	rm -rf bin dist

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/flexnbd:
	$(MAKE) build

# Developers' tools, in the versions that tools/go.mod names.
bin/tools/golangci-lint: TOOL = github.com/golangci/golangci-lint/v2/cmd/golangci-lint
bin/tools/protoc-gen-go: TOOL = google.golang.org/protobuf/cmd/protoc-gen-go
bin/tools/protoc-gen-go-grpc: TOOL = google.golang.org/grpc/cmd/protoc-gen-go-grpc
bin/tools/benchstat: TOOL = golang.org/x/perf/cmd/benchstat
bin/tools/nfpm: TOOL = github.com/goreleaser/nfpm/v2/cmd/nfpm
bin/tools/cyclonedx-gomod: TOOL = github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
bin/tools/golangci-lint bin/tools/protoc-gen-go bin/tools/protoc-gen-go-grpc bin/tools/benchstat bin/tools/nfpm bin/tools/cyclonedx-gomod: tools/go.mod tools/go.sum
	@mkdir -p bin/tools
	CGO_ENABLED=0 $(GO) build -C tools $(BUILDFLAGS) -o '../$@' $(TOOL)
	@touch '$@'
