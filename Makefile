# make demo, make test: the two commands of README. make install DESTDIR=… PREFIX=/usr for packagers.
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
# Shipped units name programs below /usr.
unit = sed 's|/usr/bin/stratavore|$(PREFIX)/bin/stratavore|g; s|/usr/libexec/stratavore|$(PREFIX)/libexec/stratavore|g'

.PHONY: build install demo test clean

build:
	$(CARGO) build --release --locked

install:
	$(INSTALL) 755 $(BUILT)/stratavored $(bin)/stratavored
	$(INSTALL) 755 $(BUILT)/stratavorectl $(bin)/stratavorectl
	$(INSTALL) 755 $(BUILT)/stratavore-agent $(libexec)/stratavore-agent
	$(INSTALL) 755 $(BUILT)/stratavore-shim $(libexec)/stratavore-shim
	install -d $(lib)/systemd/system
	for u in stratavored.service stratavore-agent.service stratavore-agent.socket stratavore.slice; do \
	  $(unit) systemd/$$u > $(lib)/systemd/system/$$u && chmod 644 $(lib)/systemd/system/$$u || exit 1; done
	$(INSTALL) 644 systemd/stratavore.sysusers $(lib)/sysusers.d/stratavore.conf
	$(INSTALL) 644 systemd/stratavore.tmpfiles $(lib)/tmpfiles.d/stratavore.conf
	$(INSTALL) 644 systemd/dbus/org.stratavore1.conf $(share)/dbus-1/system.d/org.stratavore1.conf
	$(INSTALL) 644 systemd/dbus/org.stratavore1.service $(share)/dbus-1/system-services/org.stratavore1.service
	for x in systemd/dbus/interfaces/*.xml; do $(INSTALL) 644 $$x $(share)/dbus-1/interfaces/$${x##*/} || exit 1; done
	$(INSTALL) 644 systemd/dbus/org.stratavore1.policy $(share)/polkit-1/actions/org.stratavore1.policy
	$(INSTALL) 644 systemd/dbus/stratavore.rules $(share)/polkit-1/rules.d/50-stratavore.rules

demo:
	@tests/setup.sh demo
	@$(CARGO) build --release --locked --quiet
	@tests/demo.sh

test:
	@tests/run.sh

clean:
	$(CARGO) clean
