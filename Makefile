# Every command of the repository. Builds run as you; what needs root goes through sudo.
SHELL := /bin/bash
# The second is where setup.sh puts a newer Node, where the distribution's is too old.
export PATH := $(HOME)/.cargo/bin:$(CURDIR)/target/node/node_modules/node/bin:$(PATH)

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
WEB_SOURCES := $(shell find ui/web/src ui/web/public -type f 2>/dev/null) \
	ui/web/index.html ui/web/vite.config.ts ui/web/package-lock.json

.PHONY: help setup build web demo test test-long bench clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## install what is missing on this machine (Debian 12)
	@deploy/setup.sh dev

web: ui/web/dist/index.html ## build the page

ui/web/dist/index.html: $(WEB_SOURCES)
	@if [ -d ui/web/node_modules ]; then cd ui/web && npm run --silent build; \
	else echo "make: the page is not built (run make setup first); a placeholder is served" >&2; fi

build: web ## build the page and every binary, into target/debug
	cargo build --locked --bins

demo: ## a small cluster with real traffic, observed; Ctrl-C ends it (DEMO_SECONDS, DEMO_READY_FILE)
	@deploy/setup.sh demo
	@$(MAKE) --no-print-directory build
	@exec $(SUDO) target/debug/weir demo \
		$(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS)) \
		$(if $(DEMO_READY_FILE),--ready-file $(DEMO_READY_FILE))

test: setup web ## every test; the last line is "N passed, M failed, K skipped"
	@exec tests/run.sh

test-long: setup web ## the same, with the long forms
	@WEIR_LONG=1 exec tests/run.sh

bench: setup ## every benchmark, with ratios; also target/bench/*.json
	@exec tests/bench.sh

clean: ## remove what was built, and what a killed demo left
	-$(SUDO) target/debug/weir demo --cleanup
	cargo clean
	rm -rf ui/web/dist ui/web/node_modules
