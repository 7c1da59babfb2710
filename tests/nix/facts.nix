# What the module makes, for run.sh to look at: as JSON, by nix-instantiate --eval. `package` is a folder with all that
# `make install` puts there.
{ package }:
let
  lib = import ./stub/lib.nix // {
    nixosSystem = import ./stub/nixos.nix lib;
  };
  pkgs = import ./stub/pkgs.nix lib "x86_64-linux";
  installed = {
    type = "derivation";
    name = "stratavore";
    version = "0";
    outPath = package;
  };
  evaluate =
    more:
    lib.nixosSystem {
      inherit pkgs;
      modules = [
        ../../nixos-module
        {
          services.stratavore.enable = lib.mkDefault true;
          services.stratavore.package = installed;
        }
        more
      ];
    };
  contents =
    config:
    builtins.mapAttrs (
      _: etc:
      # A checked file: what it is made of, and the command that makes it.
      if etc.source ? script then etc.source.script else "${etc.source}"
    ) config.environment.etc;
  stratavore = settings: { services.stratavore = settings; };
  of = evaluated: rec {
    inherit (evaluated) config;
    failed = map (one: one.message) (lib.filter (one: !one.assertion) config.assertions);
    facts = {
      inherit failed;
      inherit (config) warnings users;
      inherit (config.services.stratavore) settings;
      agentSettings = config.services.stratavore.agent.settings;
      units = builtins.mapAttrs (_: unit: unit.text) config.systemd.units;
      scripts = builtins.mapAttrs (_: service: service.script) (
        lib.filterAttrs (_: service: service.script != "") config.systemd.services
      );
      etc = contents config;
      rules = map (one: { inherit (one) path text; }) (
        lib.filter (one: one ? text) config.environment.systemPackages
      );
      systemPackages = map (one: "${one}") (lib.filter (one: !(one ? text)) config.environment.systemPackages);
      dbus = map toString config.services.dbus.packages;
      tmpfiles = map toString config.systemd.tmpfiles.packages;
      unitPackages = map toString config.systemd.packages;
      polkit = config.security.polkit.enable;
      ports = config.networking.firewall.allowedTCPPorts;
      scrape = config.services.prometheus.scrapeConfigs;
      postgresql = {
        inherit (config.services.postgresql) enable ensureDatabases ensureUsers;
      };
      rabbitmq = config.services.rabbitmq.enable;
    };
  };
  facts = more: (of (evaluate more)).facts;

  # A host, and words of the sentence that refuses it.
  wrong = {
    "the daemon reads no stor-password" = stratavore { credentials.stor-password = "/x"; };
    "blank or a backslash" = stratavore { credentials.store-password = "/x\\"; };
    "without its key" = stratavore { credentials.store-cert = "/x"; };
    "which has replaced it" = stratavore { credentials.audit-key-previous = "/x"; };
    "settings.store.url has a password" = stratavore { settings.store.url = "postgres://u:hush/@127.0.0.1/d"; };
    "settings.events.amqp_urls has a password" = stratavore { settings.events.amqp_urls = [ "amqp://u:/hush@127.0.0.1" ]; };
    "PostgreSQL the store, but" = stratavore {
      store.createLocally = true;
      settings.store.url = "postgres://db1.example.org/d";
      ipAddressAllow = [ "any" ];
    };
    "PostgreSQL 14 or later" = {
      services.stratavore.store.createLocally = true;
      services.postgresql.package = pkgs.postgresql_13;
    };
    "RabbitMQ the broker, but" = stratavore {
      events.createLocally = true;
      settings.events.amqp_urls = [ "amqp://mq.example.org" ];
    };
    "RabbitMQ listens at 192.0.2.1" = {
      services.stratavore.events.createLocally = true;
      services.rabbitmq.listenAddress = "192.0.2.1";
    };
    "nobody else can reach the metrics" = stratavore {
      openFirewall = true;
      ipAddressAllow = [ "any" ];
    };
    "lets in this host alone" = stratavore {
      openFirewall = true;
      settings.metrics.listen = "0.0.0.0:9791";
    };
    "no metrics to scrape" = {
      services.prometheus.enable = true;
      services.stratavore.prometheus.scrape = true;
      services.stratavore.settings.metrics.listen = "";
    };
    "is for a Prometheus of this host" = stratavore { prometheus.scrape = true; };
    "ops tells nobody" = stratavore { settings.notify.rules.ops.types = [ "*" ]; };
    "is no name of a project" = stratavore { access.projects.Web.viewers = [ "vic" ]; };
    "Web can't be declared" = stratavore { projects.Web = { }; };
    "project:Web is no scope of a budget" = stratavore { budgets."project:Web".day.limit = 1; };
    "year is no period of a budget" = stratavore { budgets.fleet.year.limit = 1; };
    "nothing is declared, so that every project" = stratavore { mutable = false; };
    "of a project that services.stratavore.mutable = false removes" = stratavore {
      mutable = false;
      projects.web = { };
      budgets."project:batch".day.limit = 1;
    };
    "from_hosts or as_users beside it is empty" = stratavore {
      agent.settings.accept_placed_launches = true;
      agent.settings.from_hosts = [ "web-1" ];
    };
    "names root, which only" = stratavore { agent.settings.allowed_users = [ "root" ]; };
  };

  # What the types refuse: evaluating them fails.
  ill = {
    "a secret in the store" = stratavore { credentials.store-password = "${builtins.storeDir}/x"; };
    "a secret by a relative path" = stratavore { credentials.store-password = "x"; };
    "a line break in a name" = stratavore { access.admins = [ "alice\n\");" ]; };
    "an empty name" = stratavore { access.projects.web.viewers = [ "" ]; };
    "a word for an address" = stratavore { ipAddressAllow = [ "db1.example.org" ]; };
    "a word that is none" = stratavore { settings.limits.unenforced = "ignore"; };
    "a text for a number" = stratavore { settings.host.max_runners = "5"; };
    "an option that is not there" = stratavore { sessions.web = { }; };
    "a key that no project has" = stratavore { projects.web.max_runner = 3; };
    "a text for a quota" = stratavore { projects.web.max_runners = "3"; };
    "a budget without a limit" = stratavore { budgets.fleet.day = { }; };
    "a kind of tokens that is none" = stratavore {
      budgets.fleet.day = {
        limit = 1;
        count = [ "in" ];
      };
    };
    "null for a freeform value" = stratavore { settings.limits.memory_max = null; };
  };
  fails = more: !(builtins.tryEval (builtins.deepSeq (facts more) true)).success;
in
{
  plain = facts { };
  everything = facts ./everything.nix;
  # README's examples, cut out by run.sh.
  readme = facts ./readme.nix;
  readme-fleet = facts ./readme-fleet.nix;
  off = facts (stratavore { enable = false; });
  # Wrong only for the program that reads it.
  misspelt = facts (stratavore {
    settings.store.ur = "x";
    agent.settings.allowed_user = [ "alice" ];
    projects.web.memory_max = "1Q";
  });
  # Another host than `plain` in what it declares alone.
  declaring = facts (stratavore { quotas.fleet = 5; });
  fleet = facts (stratavore {
    settings.store.url = "postgres://stratavore@db1.example.org,db2.example.org/stratavore";
    settings.metrics.listen = "192.0.2.1:9791";
    settings.notify.rules.ops = {
      types = [ "host.*" ];
      url = "https://ntfy.example.org/builds";
    };
    credentials.store-password = "/run/secrets/db";
  });
  wrong = builtins.mapAttrs (_: more: (of (evaluate more)).failed) wrong;
  notRefused = lib.filter (name: !fails ill.${name}) (lib.attrNames ill);
  options = import ./options.nix {
    inherit lib;
    options = (evaluate { }).options.services.stratavore;
  };
}
