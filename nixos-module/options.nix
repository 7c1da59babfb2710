# What may be said. The defaults of `settings` and `agent.settings` are the programs' own.
{ lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  toml = pkgs.formats.toml { };

  option =
    type: default: description:
    mkOption { inherit type default description; };
  text = option types.str;
  flag = option types.bool;
  texts = option (types.listOf types.str);

  # Printable characters, so that what comes of it is one line everywhere.
  person = types.strMatching "@?[!-~]([ -~]*[!-~])?";
  people = role: description: {
    ${role} = mkOption {
      type = types.listOf person;
      default = [ ];
      example = [
        "alice"
        "@wheel"
      ];
      description = "${description} Users by name, groups with `@` before theirs.";
    };
  };
  # What is declared: null = nothing said, which is the default of declared.toml(5).
  perhaps = type: description: option (types.nullOr type) null description;
  count = types.either types.ints.unsigned (types.enum [ "infinity" ]);
  amount = types.either types.ints.unsigned types.str;
  declaredProject = types.submodule {
    options = {
      description = perhaps types.str "What people call it.";
      max_runners = perhaps count "Its quota: most live runners at a time on all hosts; `\"infinity\"` = no cap.";
      max_queued = perhaps count "Most runners that wait for their turn at a time.";
      default_tokens = perhaps amount ''
        Tokens that a launch reserves of budgets that does not say, such as `"200k"`.
      '';
      memory_max = perhaps amount "Memory that all its runners together may never exceed, such as `\"16G\"`.";
      memory_high = perhaps amount "Memory above which all its runners together are slowed down.";
      memory_swap_max = perhaps amount "Swap that they may use.";
      cpu_quota = perhaps amount "Their CPU time, such as `\"400%\"` of one CPU.";
      cpu_weight = perhaps types.ints.unsigned "Their share of CPU time among projects, 1 to 10000.";
      io_weight = perhaps types.ints.unsigned "Their share of IO among projects, 1 to 10000.";
      tasks_max = perhaps count "Their processes and threads.";
    };
  };
  declaredBudget = types.submodule {
    options = {
      limit = mkOption {
        type = amount;
        example = "2M";
        description = "How many tokens in a period; 0 = no launch at all.";
      };
      timezone = perhaps types.str "On the clock of this time zone periods begin, such as `\"Europe/Berlin\"`.";
      on_exhausted = perhaps (types.enum [
        "deny"
        "freeze"
        "stop"
      ]) "What happens to running work when it is used up.";
      count = perhaps (types.listOf (
        types.enum [
          "input"
          "output"
          "cache-read"
          "cache-write"
        ]
      )) "Which tokens count.";
    };
  };
  project = types.submodule {
    options =
      people "admins"
        "Who may do with this project what operators may, change and remove it, and set its budgets and holds. They launch as themselves."
      //
        people "operators"
          "Who may launch in this project as themselves, and see, stop, freeze and limit all its runners and report for them."
      // people "viewers" "Who may see commands, labels and output of this project's runners.";
  };
in
{
  options.services.stratavore = {
    enable = lib.mkEnableOption "Stratavore, which runs long commands as systemd scopes that outlive its restarts";

    package = lib.mkPackageOption pkgs "stratavore" { };

    settings = mkOption {
      default = { };
      example = {
        host.max_runners = 50;
        limits.memory_max = "8G";
        store.url = "postgres://stratavore@db1.example.org/stratavore";
      };
      description = ''
        {file}`/etc/stratavore/stratavored.toml`; every key of stratavored.toml(5) may be given. The daemon itself
        looks it over while the system is built: a wrong key or value fails the build. Secrets do not belong here,
        see {option}`services.stratavore.credentials`.

        Files in {file}`/etc/stratavore/stratavored.toml.d` are read after it.
      '';
      type = types.submodule {
        freeformType = toml.type;
        options = {
          store.url = text "sqlite:///var/lib/stratavore/stratavore.db" ''
            Where the store is: `sqlite:///absolute/path`, of this host alone, or
            `postgres://[USER@]HOST[:PORT],…/DATABASE[?sslmode=MODE]`, the fleet's. Its password is the credential
            `store-password`.
          '';
          store.retention = text "90d" "How long ended runners, request ids and events are kept.";
          events.amqp_urls = texts [ ] ''
            The RabbitMQ that events are published to: `amqp[s]://[USER@]HOST[:PORT][/VIRTUAL-HOST]`, several are tried
            in turn. The password is the credential `amqp-password`.
          '';
          events.exchange = text "stratavore.events" "The exchange they go to.";
          events.unroutable = option (types.enum [
            "park"
            "accept"
          ]) "park" "What becomes of events that nobody has bound a queue for.";
          host.name = text "" "This host's name in lists and events; empty = the host name.";
          host.max_runners =
            option types.ints.unsigned 0
              "Most live runners on this host; 0 = no cap.";
          host.labels = option (types.attrsOf types.str) { } "What this host is chosen by with `--on auto`.";
          limits.unenforced = option (types.enum [
            "refuse"
            "warn"
          ]) "refuse" "What a limit gets whose controller this host lacks.";
          fleet.name = text "default" "What this fleet is called; the same on all its hosts.";
          fleet.stop_on_disconnect_after = text "" ''
            After how long without the fleet's store this host's runners are stopped, so that their slots can be given
            to others; empty = running work is never stopped because the store is away.
          '';
          metrics.listen = text "127.0.0.1:9791" ''
            Where {file}`/metrics`, {file}`/healthz`, {file}`/readyz` and {file}`/sd` are served: `ADDRESS:PORT`;
            empty = nowhere.
          '';
          metrics.advertise = text "" ''
            Where Prometheus reaches this host, for {file}`/sd`: `HOST` or `HOST:PORT`; empty = where it listens.
          '';
          audit.key_credential =
            text "audit-key"
              "The credential with the key of this host's audit. Without it no audit is kept.";
          notify.rules = option (types.attrsOf toml.type) { } ''
            Who is told of what, by webhooks. An address that is a secret is the credential `notify-NAME-url`.
          '';
        };
      };
    };

    agent.settings = mkOption {
      default = { };
      example = {
        allowed_users = [
          "alice"
          2001
        ];
        ceilings.memory_max = "16G";
      };
      description = ''
        {file}`/etc/stratavore/agent.toml`: what bounds the agent whatever the daemon asks for, see agent.toml(5). The
        agent itself looks it over while the system is built. A switch that changes it reloads the agent.
      '';
      type = types.submodule {
        freeformType = toml.type;
        options = {
          allow_root = flag false "Whether anything may run as root.";
          allowed_users = option (types.listOf (types.either types.str types.ints.unsigned)) [ ] ''
            The accounts runners may be, by name or number; empty = every account with a uid from 1000 to 60000.
          '';
          accept_placed_launches = flag false ''
            Whether launches are taken that were asked for on other hosts of the fleet and come through the store, from
            the hosts of `from_hosts`, as the users of `as_users`.
          '';
          from_hosts = texts [ ] "The hosts, by id or name, from which they are taken.";
          as_users = option (types.listOf (types.either types.str types.ints.unsigned)) [ ] ''
            The accounts of this host that they may run as, by name or number.
          '';
          ceilings = option (types.attrsOf (types.either types.str types.ints.unsigned)) { } ''
            No runner gets more than this, such as `memory_max = "16G"`.
          '';
        };
      };
    };

    credentials = mkOption {
      type = types.attrsOf types.externalPath;
      default = { };
      example = {
        store-password = "/run/secrets/stratavore-store-password";
      };
      description = ''
        The daemon's secrets and certificates by name, each a file outside of the Nix store that systemd hands to it
        (`LoadCredential=`): `store-password`, `store-ca`, `store-cert`, `store-key`, `amqp-password`, `amqp-ca`,
        `amqp-cert`, `amqp-key`, `audit-key`, `audit-key-previous`, and for each notification rule `notify-NAME-url`
        and `notify-NAME-secret`. Root alone has to be able to read the files. A changed file is read at the next start:
        {command}`systemctl restart stratavored`; runners do not notice.

        The audit's key may as well be {file}`/etc/credstore/stratavore.audit-key`.
      '';
    };

    store.createLocally = flag false ''
      Whether this host's PostgreSQL is the store, with a database and a role `stratavore` made for it. The daemon comes
      in by its socket, without a password. It is for this host alone: the database of a fleet is set up on its own, as
      README (A fleet) has it.
    '';

    events.createLocally = flag false ''
      Whether events go to a RabbitMQ of this host, with a user `stratavore` made for it that may make and write the
      exchange and nothing else. Its password is made at random, once, in {file}`/var/lib/stratavore-amqp`, which root
      alone can read. RabbitMQ's own user `guest` is not touched.
    '';

    access =
      people "admins"
        "Who may do everything with Stratavore on this host, launching as other users included, which is to be them."
      //
        people "operators"
          "Who may launch as themselves, and see, stop, freeze and limit all runners and report for them."
      // people "viewers" "Who may see commands, labels and output of all runners."
      // {
        projects = mkOption {
          type = types.attrsOf project;
          default = { };
          example = {
            web.operators = [ "@web-team" ];
          };
          description = ''
            The same for single projects, by name. Whoever else is to launch as themselves and see all is put into the
            group `stratavore-users`, with `users.users.NAME.extraGroups`. Owners control their own runners anyway.
          '';
        };
      };

    projects = mkOption {
      type = types.attrsOf declaredProject;
      default = { };
      example = {
        web = {
          description = "The web team";
          max_runners = 40;
          memory_max = "64G";
        };
      };
      description = ''
        Projects that there are to be, by name. They are declared as a whole: what is not said of one has its default, see
        declared.toml(5), whatever was set by hand. {file}`stratavore-apply.service` makes it so at boot and with each
        switch that changes it, and stops no runner; {command}`stratavorectl diff` tells what differs.

        The file is looked over by {command}`stratavorectl apply --check` while the system is built. A project that is
        taken out of here stays, see {option}`services.stratavore.mutable`.
      '';
    };

    quotas.fleet = perhaps count ''
      Most live runners of all projects on all hosts of the fleet; `"infinity"` = no cap, null = as it was set by hand. The
      quota of a project is {option}`services.stratavore.projects.<name>.max_runners`, this host's
      {option}`services.stratavore.settings.host.max_runners`.
    '';

    budgets = mkOption {
      type = types.attrsOf (types.attrsOf declaredBudget);
      default = { };
      example = {
        "project:web".day = {
          limit = "20M";
          timezone = "Europe/Berlin";
          on_exhausted = "freeze";
        };
      };
      description = ''
        Budgets that there are to be, by scope (`fleet`, `project:NAME` or `session:NAME`) and period (`hour`, `day`, `week`,
        `month` or `none`). What is used of one stays used when it is changed.
      '';
    };

    mutable = flag true ''
      Whether there may be projects, budgets and a quota of the fleet that are not declared here. With false they are
      removed; a project with runners stays until they have ended, and {file}`stratavore-apply.service` tells so and tries
      again. In a fleet, where all hosts share them, each host has to declare the same then.
    '';

    ipAddressAllow = mkOption {
      type = types.listOf (types.strMatching "[0-9a-fA-F.:/]+|any|link-local|localhost|multicast");
      default = [ ];
      example = [ "192.0.2.10" ];
      description = ''
        Whom the daemon may talk to beside this host, as `IPAddressAllow=` of systemd.resource-control(5) has it: a
        store, a broker, webhooks and scrapers elsewhere, and a name server that is asked directly.
      '';
    };

    openFirewall = flag false ''
      Whether the firewall lets others reach the port of `settings.metrics.listen`. Nobody has to log in there; {file}`/metrics`
      names projects, never users or commands, and {file}`/sd` the fleet's hosts that advertise an address, with their ids,
      states and labels.
    '';

    prometheus.scrape = flag false ''
      Whether this host's Prometheus scrapes Stratavore: this host, and in a fleet all hosts that advertise an address.
    '';
  };
}
