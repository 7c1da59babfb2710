# make demo, make test: the two commands of README. make install DESTDIR=… PREFIX=/usr for packagers.
# make uninstall (with the same words) takes away again what that put there.
# make deb: a package for Debian, of what make install installs.
# make install-user, make uninstall-user: for yourself alone, without root.
PREFIX ?= /usr
DESTDIR ?=
CARGO ?= cargo
# Where the programs to install lie.
BUILT ?= target/release
INSTALL = install -D -m

bin = $(DESTDIR)$(PREFIX)/bin
libexec = $(DESTDIR)$(PREFIX)/libexec/stratavore
lib = $(DESTDIR)$(PREFIX)/lib
share = $(DESTDIR)$(PREFIX)/share
units = stratavored.service stratavore-agent.service stratavore-agent.socket stratavore-apply.service stratavore.slice
# Shipped units, the catalog and the manual name programs below /usr.
unit = sed 's|/usr/bin/stratavore|$(PREFIX)/bin/stratavore|g; s|/usr/libexec/stratavore|$(PREFIX)/libexec/stratavore|g'

.PHONY: build install uninstall programs deb install-user uninstall-user demo test bench release clean

build:
	@CARGO="$(CARGO)" .ci/build

programs:
	$(INSTALL) 755 $(BUILT)/stratavored $(bin)/stratavored
	$(INSTALL) 755 $(BUILT)/stratavorectl $(bin)/stratavorectl
	$(INSTALL) 755 $(BUILT)/stratavore-agent $(libexec)/stratavore-agent
	$(INSTALL) 755 $(BUILT)/stratavore-shim $(libexec)/stratavore-shim

install: programs
	install -d $(lib)/systemd/system $(lib)/systemd/user
	for u in $(units); do for at in system:systemd user:systemd/user; do \
	  to=$(lib)/systemd/$${at%%:*}/$$u; $(unit) $${at#*:}/$$u > $$to && chmod 644 $$to || exit 1; done; done
	$(INSTALL) 644 systemd/stratavore.sysusers $(lib)/sysusers.d/stratavore.conf
	$(INSTALL) 644 systemd/stratavore.tmpfiles $(lib)/tmpfiles.d/stratavore.conf
	to=$(lib)/systemd/catalog/stratavore.catalog; install -d $${to%/*} && $(unit) systemd/stratavore.catalog >$$to && chmod 644 $$to
	$(INSTALL) 644 systemd/dbus/org.stratavore1.conf $(share)/dbus-1/system.d/org.stratavore1.conf
	$(INSTALL) 644 systemd/dbus/org.stratavore1.service $(share)/dbus-1/system-services/org.stratavore1.service
	$(INSTALL) 644 systemd/dbus/org.stratavore1.user.service $(share)/dbus-1/services/org.stratavore1.service
	for x in systemd/dbus/interfaces/*.xml; do $(INSTALL) 644 $$x $(share)/dbus-1/interfaces/$${x##*/} || exit 1; done
	for s in systemd/schemas/*.json; do $(INSTALL) 644 $$s $(share)/stratavore/schemas/$${s##*/} || exit 1; done
	$(INSTALL) 644 systemd/rabbitmq/consumer.json $(share)/stratavore/rabbitmq-consumer.json
	$(INSTALL) 644 systemd/dbus/org.stratavore1.policy $(share)/polkit-1/actions/org.stratavore1.policy
	$(INSTALL) 644 systemd/completions/stratavorectl.bash $(share)/bash-completion/completions/stratavorectl
# Debian's zsh looks into the second below /usr, others into the first.
	for d in site-functions vendor-completions; do $(INSTALL) 644 systemd/completions/stratavorectl.zsh $(share)/zsh/$$d/_stratavorectl || exit 1; done
	$(INSTALL) 644 systemd/completions/stratavorectl.fish $(share)/fish/vendor_completions.d/stratavorectl.fish
	$(INSTALL) 644 systemd/dbus/stratavore.rules $(share)/polkit-1/rules.d/50-stratavore.rules
	for m in systemd/man/*; do to=$(share)/man/man$${m##*.}/$${m##*/}; \
	  install -d $${to%/*} && $(unit) $$m >$$to && chmod 644 $$to || exit 1; done

# Leaves what runners and people have written: the store, the configuration, the accounts.
uninstall:
	@[ -n "$(DESTDIR)" ] || [ -z "$$(systemctl list-units --plain --no-legend 'stratavore-*.scope')" ] || \
	  { echo "Runners live on this host; stop them first:"; systemctl list-units --plain --no-legend 'stratavore-*.scope' | \
	  sed -n 's/^stratavore-\([^ ]*\)\.scope .*/    stratavorectl stop \1/p'; exit 1; } >&2
	@[ -n "$(DESTDIR)" ] || systemctl disable --quiet --now stratavore-apply.service stratavored.service stratavore-agent.socket stratavore-agent.service stratavore.slice
	@work=$$(mktemp -d) && trap 'rm -rf "$$work"' EXIT && mkdir "$$work/built" && \
	  (cd "$$work/built" && touch stratavored stratavorectl stratavore-agent stratavore-shim) && \
	  $(MAKE) --no-print-directory --silent install BUILT="$$work/built" DESTDIR="$$work/root" && \
	  (cd "$$work/root" && find . -type f) | while read -r file; do rm -f "$(DESTDIR)/$$file"; done
	@rmdir "$(libexec)" "$(share)/stratavore/schemas" "$(share)/stratavore" 2>/dev/null || true
	@[ -n "$(DESTDIR)" ] || ! mountpoint -q /run/credentials/stratavore || umount -l /run/credentials/stratavore || true
	@[ -n "$(DESTDIR)" ] || { systemctl daemon-reload && systemctl reload dbus && journalctl --update-catalog; }
	@echo "Gone, but for /var/lib/stratavore, /etc/stratavore and the accounts."

# target/deb/stratavore_VERSION_ARCHITECTURE.deb
deb: $(if $(filter target/release,$(BUILT)),build)
	@BUILT="$(BUILT)" CARGO="$(CARGO)" .ci/deb

# For yourself alone, on your own systemd and session bus, without root.
mine = $${XDG_DATA_HOME:-$$HOME/.local/share}
install-user: $(if $(filter target/release,$(BUILT)),build)
	@[ "$$(id -u)" != 0 ] || { echo "install-user is for an ordinary user; root: make install" >&2; exit 1; }
	@systemctl --user show-environment >/dev/null || { echo "Your systemd does not answer: log in as yourself (not by su or sudo), then again" >&2; exit 1; }
	@$(MAKE) --no-print-directory programs PREFIX="$$HOME/.local" DESTDIR=
	@install -d "$(mine)/systemd/user" "$(mine)/dbus-1/services"
	@for u in $(units); do sed "s|/usr/bin/|$$HOME/.local/bin/|; s|/usr/libexec/|$$HOME/.local/libexec/|" systemd/user/$$u > "$(mine)/systemd/user/$$u" || exit 1; done
	@install -m 644 systemd/dbus/org.stratavore1.user.service "$(mine)/dbus-1/services/org.stratavore1.service"
	@for m in systemd/man/*; do install -D -m 644 $$m "$(mine)/man/man$${m##*.}/$${m##*/}" || exit 1; done
	@install -D -m 644 systemd/completions/stratavorectl.bash "$(mine)/bash-completion/completions/stratavorectl"
	@install -D -m 644 systemd/completions/stratavorectl.fish "$(mine)/fish/vendor_completions.d/stratavorectl.fish"
	@systemctl --user daemon-reload
	@busctl --user --quiet call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig
	@systemctl --user enable --quiet stratavore-agent.socket stratavored.service
	@systemctl --user restart stratavore-agent.service stratavored.service
	@echo "Stratavore runs for $$(id -un). Try: $$HOME/.local/bin/stratavorectl --user status"

# Leaves your runners' history and your configuration.
uninstall-user:
	@[ -z "$$(systemctl --user list-units --plain --no-legend 'stratavore-*.scope')" ] || \
	  { echo "Runners live; stop them first: stratavorectl --user stop --all" >&2; exit 1; }
	@systemctl --user disable --quiet --now stratavore-apply.service stratavored.service stratavore-agent.socket stratavore-agent.service stratavore.slice
	@for u in $(units); do rm -f "$(mine)/systemd/user/$$u"; done
	@rm -f "$(mine)/dbus-1/services/org.stratavore1.service"
	@for m in systemd/man/*; do rm -f "$(mine)/man/man$${m##*.}/$${m##*/}"; done
	@rm -f "$(mine)/bash-completion/completions/stratavorectl" "$(mine)/fish/vendor_completions.d/stratavorectl.fish"
	@rm -rf "$$HOME/.local/libexec/stratavore"
	@rm -f "$$HOME/.local/bin/stratavored" "$$HOME/.local/bin/stratavorectl"
	@systemctl --user daemon-reload
	@echo "Gone, but for $${XDG_STATE_HOME:-$$HOME/.local/state}/stratavore and $${XDG_CONFIG_HOME:-$$HOME/.config}/stratavore."

demo:
	@tests/setup.sh demo
	@CARGO="$(CARGO)" .ci/build --quiet
	@tests/demo.sh

test:
	@tests/run.sh

# What it costs, beside what it could cost at best; also as target/bench.json.
bench:
	@tests/setup.sh bench
	@CARGO="$(CARGO)" .ci/build --quiet --workspace
	@benches/run.sh

# Version, changelog, commit, tag, source archive and bill of materials; nothing is pushed.
release:
	@.ci/release "$(VERSION)"

clean:
	$(CARGO) clean
