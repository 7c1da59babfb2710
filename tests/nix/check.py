"""check.py WORK HERE [--update]: looks at what run.sh has had evaluated, and puts into WORK what it looks at next."""

import json
import os
import re
import sys
import tomllib
from pathlib import Path

work, here = Path(sys.argv[1]), Path(sys.argv[2])
update = "--update" in sys.argv
facts = json.loads((work / "facts.json").read_text())
package = work / "package"
plain, everything, fleet = facts["plain"], facts["everything"], facts["fleet"]
wrong = []


def expect(holds, sentence):
    if not holds:
        wrong.append(sentence)


def same(found, wanted, what):
    expect(found == wanted, f"{what}: {found!r} instead of {wanted!r}")


def directives(text):
    """(section, name, value) of a unit, in order; without comments."""
    section, out = "", []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith(("#", ";")):
            name, value = line.split("=", 1)
            out.append((section, name, value))
    return out


def golden(file, made):
    if update:
        (here / file).parent.mkdir(exist_ok=True)
        (here / file).write_text(made)
    there = (here / file).read_text() if (here / file).exists() else ""
    expect(there == made, f"{file} is not what the module makes: tests/nix/run.sh --update writes it anew")


# The shipped units are the ones that are used: the same but for where programs are.
services = [
    "stratavored.service", "stratavore-agent.service", "stratavore-agent.socket", "stratavore-apply.service", "stratavore.slice",
]
for unit in services:
    shipped = directives((here / "systemd" / unit).read_text())
    used = directives((package / "lib/systemd/system" / unit).read_text())
    usual = []
    for section, name, value in used:
        value = re.sub(r"\S*/bin/kill ", "kill ", value) if name == "ExecReload" else value
        usual.append((section, name, value.replace(str(package), "/usr")))
    same(usual, shipped, f"{unit} as it is installed")

# What NixOS adds to them, word for word. It is nothing that opens a sandbox.
def added(host, unit):
    return [d for d in directives(host["units"][unit]) if d[1] != "Environment" and d[0] != "Install"]


def triggers(host, unit):
    return [(name, Path(value).name.split("-", 1)[1]) for _, name, value in added(host, unit) if name.startswith("X-Re")]


def others(host, unit):
    return [d for d in added(host, unit) if not d[1].startswith("X-Re")]


down = ("Service", "X-StopIfChanged", "false")
same(others(plain, "stratavored.service"), [down], "the drop-in of stratavored.service")
same(others(everything, "stratavored.service"), [
    ("Unit", "After", "postgresql.target rabbitmq.service stratavore-amqp-password.service"),
    ("Unit", "Wants", "postgresql.target rabbitmq.service stratavore-amqp-password.service"),
    down,
    ("Service", "IPAddressAllow", "192.0.2.0/24"),
    ("Service", "LoadCredential", "amqp-password:/var/lib/stratavore-amqp/password"),
    ("Service", "LoadCredential", "audit-key:/run/secrets/audit %%i"),
    ("Service", "LoadCredential", "notify-ops-url:/run/secrets/ops-url"),
], "the drop-in of stratavored.service with everything")
for host in plain, everything:
    same(others(host, "stratavore-agent.service"), [down], "the drop-in of stratavore-agent.service")
    # Changed settings restart the daemon and reload the agent.
    same(triggers(host, "stratavored.service"), [("X-Restart-Triggers", "Restart")], "what restarts the daemon")
    same(triggers(host, "stratavore-agent.service"), [("X-Reload-Triggers", "Reload")], "what reloads the agent")
    same(added(host, "stratavore-agent.socket"), [], "the drop-in of the socket")
    same(others(host, "stratavore-apply.service"), [down], "the drop-in of stratavore-apply.service")
    same(added(host, "stratavore.slice"), [("Unit", "X-StopOnRemoval", "false")], "the drop-in of the slice")


def trigger(host, unit):
    return next(value for _, name, value in added(host, unit) if name.startswith("X-Re"))


# What is declared is applied anew where it has changed, and where there is nothing there is no file; daemon and agent go on.
declaring = facts["declaring"]
same(triggers(plain, "stratavore-apply.service"), [], "what restarts stratavore-apply where nothing is declared")
for host in everything, declaring:
    same(triggers(host, "stratavore-apply.service"), [("X-Restart-Triggers", "Restart")], "what restarts stratavore-apply")
expect(trigger(everything, "stratavore-apply.service") != trigger(declaring, "stratavore-apply.service"), "it would not notice others")
expect("stratavore/declared.toml" not in plain["etc"], "a file that declares nothing")
for unit in services[:3]:
    same(declaring["units"].get(unit), plain["units"].get(unit), f"{unit} of a host that declares something")

for unit in "stratavored.service", "stratavore-agent.service":
    expect(trigger(plain, unit) != trigger(everything, unit), f"{unit} would not notice changed settings")

# [Install] is ignored by NixOS: each shipped WantedBy= is in the drop-in, and what Also= names has one.
for unit in services:
    text = directives((here / "systemd" / unit).read_text())
    wanted = [d for d in text if d[1] == "WantedBy"]
    same([d for d in directives(plain["units"].get(unit, "")) if d[1] == "WantedBy"], wanted, f"what wants {unit}")
    for also in [d[2] for d in text if d[1] == "Also"]:
        expect("WantedBy=" in plain["units"][also], f"nothing wants {also}")

# Paths that NixOS ignores are done its way, and are there.
p = str(package)
for host in plain, everything:
    for key in "systemPackages", "dbus", "tmpfiles", "unitPackages":
        same(host[key], [p], key)
    same(host["polkit"], True, "polkit")
    same(host["etc"]["systemd/catalog/stratavore.catalog"], f"{p}/lib/systemd/catalog/stratavore.catalog", "the catalog")
    expect("journalctl --update-catalog" in host["units"]["stratavore-catalog.service"], "nobody reads the catalog in")
for path in [
    "bin/stratavorectl", "share/polkit-1/actions/org.stratavore1.policy", "share/polkit-1/rules.d/50-stratavore.rules",
    "share/dbus-1/system.d/org.stratavore1.conf", "share/dbus-1/system-services/org.stratavore1.service",
    "lib/tmpfiles.d/stratavore.conf", "lib/systemd/catalog/stratavore.catalog", "lib/systemd/user/stratavored.service",
    "share/man/man5/stratavored.toml.5", "share/bash-completion/completions/stratavorectl",
]:
    expect((package / path).is_file(), f"{path} is not installed")

# Accounts as in sysusers.d.
users, groups = {}, set()
for line in (package / "lib/sysusers.d/stratavore.conf").read_text().splitlines():
    words = re.findall(r'"[^"]*"|\S+', line.split("#")[0])
    if words and words[0] == "u":
        users[words[1]] = {"isSystemUser": True, "group": words[1], "description": words[3].strip('"'), "home": words[4]}
        groups.add(words[1])
    elif words:
        groups.add(words[1])
same(plain["users"]["users"], users, "users")
same(set(plain["users"]["groups"]), groups, "groups")

# Files, for the programs that check them.
for host in "plain", "everything", "fleet", "readme", "readme-fleet", "misspelt":
    for file in "stratavored.toml", "agent.toml":
        script = facts[host]["etc"][f"stratavore/{file}"]
        expect("--check-config" in script, f"{host}: nobody checks {file}")
        to = work / "etc" / host
        to.mkdir(parents=True, exist_ok=True)
        (to / file).write_text(script)
    script = facts[host]["etc"].get("stratavore/declared.toml")
    if script is not None:
        expect("bin/stratavorectl apply --check --file declared.toml" in script, f"{host}: nobody checks declared.toml")
        (to / "declared.toml").write_text(script)

# What NixOS makes of the units: the shipped ones with drop-ins.
for name, host in ("plain", plain), ("everything", everything):
    root = work / "root" / name
    units = root / "etc/systemd/system"
    for unit, text in host["units"].items():
        shipped = package / "lib/systemd/system" / unit
        to = units / unit
        if shipped.exists():
            units.mkdir(parents=True, exist_ok=True)
            to.write_text(shipped.read_text())
            to = units / f"{unit}.d/overrides.conf"
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(text)

# The module's defaults are the daemon's.
defaults = tomllib.loads((work / "defaults.toml").read_text())
for section, keys in plain["settings"].items():
    for key, value in keys.items():
        same(value, defaults[section].get(key), f"the default of settings.{section}.{key}")

# The credentials it knows are those the daemon reads.
told = set(re.findall(r"^#   ([a-z-]+): ", (work / "defaults.toml").read_text(), re.M))
(message,) = facts["wrong"]["the daemon reads no stor-password"]
same(set(message.split("there are ")[1].rstrip(".").split(", ")), told, "the credentials there are")

# Assertions fire, alone and in one line; hosts that are right have none.
for words, messages in facts["wrong"].items():
    expect(len(messages) == 1 and words in messages[0] and "\n" not in messages[0], f"{words}: {messages}")
    expect("hush" not in str(messages), f"{words}: tells the password")
for name in "plain", "everything", "fleet", "readme", "readme-fleet", "off":
    same(facts[name]["failed"], [], f"assertions of {name}")
same(facts["notRefused"], [], "not refused by the types")
for name in "plain", "everything", "readme", "readme-fleet":
    same(facts[name]["warnings"], [], f"warnings of {name}")
# README's host of a fleet is what its drop-in is elsewhere.
readme = (here / "README.md").read_text().split("\n## A fleet\n")[1]
drop_in = directives(re.search(r"```ini\n(.*?)```", readme, re.S)[1])
made = others(facts["readme-fleet"], "stratavored.service")
for key in "LoadCredential", "IPAddressAllow":
    names = lambda of: sorted(word.split(":")[0] for _, name, value in of if name == key for word in value.split())
    same(names(made), names(drop_in), f"{key} of README's host of a fleet")
for what in "settings.store.url", "settings.notify.rules", "settings.metrics.listen":
    expect(what in str(fleet["warnings"]), f"no warning that {what} is out of reach")
expect("amqp_urls" not in str(fleet["warnings"]), f"a warning of nothing: {fleet['warnings']}")
for key in "units", "etc", "systemPackages", "ports", "scrape", "dbus":
    expect(not facts["off"][key], f"without enable there is {key}")

# Where it leads.
same(everything["settings"]["store"]["url"], "postgres://stratavore@%2Frun%2Fpostgresql/stratavore", "the local store")
same(everything["settings"]["events"]["amqp_urls"], ["amqp://stratavore@127.0.0.1:5672"], "the local broker")
same(everything["postgresql"], {
    "enable": True, "ensureDatabases": ["stratavore"],
    "ensureUsers": [{"name": "stratavore", "ensureDBOwnership": True}],
}, "PostgreSQL")
same((everything["rabbitmq"], plain["rabbitmq"], plain["postgresql"]["enable"]), (True, False, False), "RabbitMQ and PostgreSQL")
same((everything["ports"], plain["ports"]), ([9791], []), "the firewall")
same(everything["scrape"][0]["http_sd_configs"], [{"url": "http://127.0.0.1:9791/sd"}], "what Prometheus scrapes")
(work / "prometheus.yml").write_text(json.dumps({"scrape_configs": everything["scrape"]}))

# The daemon's password is made before it is wanted, and the broker's user after the broker is up.
password, user = (everything["units"][f"stratavore-amqp-{what}.service"] for what in ("password", "user"))
expect("After=rabbitmq.service stratavore-amqp-password.service" in user and "User=rabbitmq" in user, user)
expect("LoadCredential=password:/var/lib/stratavore-amqp/password" in user, user)
expect("StateDirectoryMode=0700" in password and "UMask=0077" in password, password)

# Rules: none where nobody is named. Whoever may do everything may do all that the daemon asks about.
same((plain["rules"], [rule["path"] for rule in everything["rules"]]),
     ([], ["share/polkit-1/rules.d/40-stratavore-access.rules"]), "rules")
rules = everything["rules"][0]["text"]
policy = (package / "share/polkit-1/actions/org.stratavore1.policy").read_text()
actions = set(re.findall(r'<action id="org\.stratavore1\.([a-z-]+)"', policy))
granted = json.loads(re.search(r"var grants = (.*);$", rules, re.M)[1])
same(set(granted[0]["verbs"]), actions, "what admins may")
golden("tests/nix/access.rules", rules)
# For tests/hosts/nixos.rs, which switches between hosts of them.
for unit in services:
    lines = [line for line in plain["units"][unit].splitlines() if line and not line.startswith("Environment=")]
    if unit == "stratavore-apply.service":
        # With something to be applied.
        lines = [line for line in declaring["units"][unit].splitlines() if line and not line.startswith("Environment=")]
    text = re.sub(r"(Triggers=).*", r"\1@TRIGGER@", "\n".join(lines) + "\n")
    golden(f"tests/nix/drop-ins/{unit}.conf", text)
golden("nixos-module/options.md", facts["options"])

for sentence in wrong:
    print(f"nix: {sentence}", file=sys.stderr)
sys.exit(1 if wrong else 0)
