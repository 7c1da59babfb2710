# What can't work is refused while the system is evaluated, and said with what to do.
{ config, lib, ... }:
let
  cfg = config.services.stratavore;
  inherit (cfg) settings credentials;
  has = name: credentials ? ${name};
  metrics = import ./metrics.nix { inherit lib; } settings.metrics.listen;
  rules = lib.attrNames settings.notify.rules;

  # The daemon's, src/config/credentials.rs.
  known = [
    "store-password"
    "store-ca"
    "store-cert"
    "store-key"
    "amqp-password"
    "amqp-ca"
    "amqp-cert"
    "amqp-key"
    settings.audit.key_credential
    "${settings.audit.key_credential}-previous"
  ]
  ++ lib.concatMap (rule: [
    "notify-${rule}-url"
    "notify-${rule}-secret"
  ]) rules;
  unknown = lib.subtractLists known (lib.attrNames credentials);
  # systemd takes a line of its unit apart.
  unwritable = lib.filter (name: builtins.match "[^\n]*[^\n\\ \t]" credentials.${name} == null) (
    lib.attrNames credentials
  );

  # There is no user:password@ in a URL that is right, and a password may have any character.
  hasPassword = url: builtins.match "[a-z]+://.*:.*@.*" url != null;
  isHere = url: builtins.match "(sqlite:.*)|([a-z]+://([^/@]*@)?(localhost|127\\.[0-9.]+|\\[::1]|%2F[^/,]*)([:/].*)?)" url != null;
  # What is about other hosts, or may be.
  away =
    lib.optional (!isHere settings.store.url) "settings.store.url"
    ++ lib.optional (!lib.all isHere settings.events.amqp_urls) "settings.events.amqp_urls"
    ++ lib.optional (
      !lib.all (rule: isHere (settings.notify.rules.${rule}.url or "")) rules
    ) "settings.notify.rules"
    ++ lib.optional (metrics != null && metrics.open) "settings.metrics.listen";

  mute = lib.filter (
    rule: !(settings.notify.rules.${rule} ? url) && !has "notify-${rule}-url"
  ) rules;
  # The daemon's rule for names; what it would never ask polkit about is a mistake.
  isProject = name: builtins.match "[a-z0-9][a-z0-9._-]{0,62}" name != null;
  misnamed = of: lib.filter (name: !isProject name) (lib.attrNames of);
  aName = "one begins with a small letter or a digit, and has up to 63 small letters, digits, “.”, “_” and “-”";

  scopes = lib.attrNames cfg.budgets;
  ofProject = scope: lib.hasPrefix "project:" scope;
  noScope = lib.filter (
    scope:
    !(
      scope == "fleet"
      || (ofProject scope && isProject (lib.removePrefix "project:" scope))
      || builtins.match "session:[A-Za-z0-9][A-Za-z0-9._-]{0,62}" scope != null
    )
  ) scopes;
  periods = [
    "hour"
    "day"
    "week"
    "month"
    "none"
  ];
  noPeriod = lib.subtractLists periods (
    lib.concatMap (scope: lib.attrNames cfg.budgets.${scope}) scopes
  );
  orphans = lib.filter (
    scope: ofProject scope && !(cfg.projects ? ${lib.removePrefix "project:" scope})
  ) scopes;
  both = a: b: has a == has b;
  option = name: "services.stratavore.${name}";
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = unknown == [ ];
        message = "${option "credentials"}: the daemon reads no ${lib.concatStringsSep ", " unknown}; there are ${lib.concatStringsSep ", " known}.";
      }
      {
        assertion = unwritable == [ ];
        message = "${option "credentials"}.${lib.concatStringsSep ", " unwritable}: systemd can't read a path with a line break in it, or with a blank or a backslash at its end; give another one.";
      }
      {
        assertion = both "store-cert" "store-key" && both "amqp-cert" "amqp-key";
        message = "${option "credentials"}: a certificate (store-cert, amqp-cert) is given without its key (store-key, amqp-key), or the other way round; give both or none.";
      }
      {
        assertion =
          has settings.audit.key_credential || !has "${settings.audit.key_credential}-previous";
        message = "${option "credentials"}: ${settings.audit.key_credential}-previous is given, but not ${settings.audit.key_credential}, which has replaced it; give both or none.";
      }
      {
        assertion = !hasPassword settings.store.url;
        message = "${option "settings.store.url"} has a password, which everybody could read in the Nix store. Take it out, change it, and give the file it is in as ${option "credentials.store-password"}.";
      }
      {
        assertion = !lib.any hasPassword settings.events.amqp_urls;
        message = "${option "settings.events.amqp_urls"} has a password, which everybody could read in the Nix store. Take it out, change it, and give the file it is in as ${option "credentials.amqp-password"}.";
      }
      {
        assertion = cfg.store.createLocally -> lib.hasInfix "@%2Frun%2Fpostgresql/" settings.store.url;
        message = "${option "store.createLocally"} makes this host's PostgreSQL the store, but ${option "settings.store.url"} names another one; take one of them out.";
      }
      {
        assertion =
          cfg.store.createLocally -> lib.versionAtLeast config.services.postgresql.package.version "14";
        message = "${option "store.createLocally"} needs PostgreSQL 14 or later, and services.postgresql.package is ${config.services.postgresql.package.version}; choose a later one, such as pkgs.postgresql_17.";
      }
      {
        assertion = cfg.events.createLocally -> lib.all isHere settings.events.amqp_urls;
        message = "${option "events.createLocally"} makes this host's RabbitMQ the broker, but ${option "settings.events.amqp_urls"} names another one; take one of them out.";
      }
      {
        assertion =
          cfg.events.createLocally
          -> lib.elem config.services.rabbitmq.listenAddress [
            ""
            "0.0.0.0"
            "127.0.0.1"
            "::"
          ];
        message = "${option "events.createLocally"}: the daemon comes to 127.0.0.1, and RabbitMQ listens at ${config.services.rabbitmq.listenAddress}; set services.rabbitmq.listenAddress to \"127.0.0.1\" or to \"\" for all addresses.";
      }
      {
        assertion = cfg.openFirewall -> metrics != null && metrics.open;
        message = "${option "openFirewall"}: nobody else can reach the metrics at \"${settings.metrics.listen}\"; set ${option "settings.metrics.listen"} to an address of this host, such as \"0.0.0.0:9791\", or leave the firewall shut.";
      }
      {
        assertion = cfg.openFirewall -> cfg.ipAddressAllow != [ ];
        message = "${option "openFirewall"}: the daemon's own unit lets in this host alone; name the addresses of who scrapes in ${option "ipAddressAllow"}.";
      }
      {
        assertion = cfg.prometheus.scrape -> metrics != null;
        message = "${option "prometheus.scrape"}: there are no metrics to scrape, as ${option "settings.metrics.listen"} is \"${settings.metrics.listen}\"; give it ADDRESS:PORT.";
      }
      {
        assertion = cfg.prometheus.scrape -> config.services.prometheus.enable;
        message = "${option "prometheus.scrape"} is for a Prometheus of this host, and there is none: set services.prometheus.enable, or have the other one scrape this host with http_sd_configs.";
      }
      {
        assertion = mute == [ ];
        message = "${option "settings.notify.rules"}: ${lib.concatStringsSep ", " mute} tells nobody; give it a url, or the file with it as ${option "credentials"}.notify-NAME-url.";
      }
      {
        assertion = misnamed cfg.access.projects == [ ];
        message = "${option "access.projects"}: ${lib.concatStringsSep ", " (misnamed cfg.access.projects)} is no name of a project: ${aName}.";
      }
      {
        assertion = misnamed cfg.projects == [ ];
        message = "${option "projects"}: ${lib.concatStringsSep ", " (misnamed cfg.projects)} can't be declared, as it is no name of a project: ${aName}.";
      }
      {
        assertion = noScope == [ ];
        message = "${option "budgets"}: ${lib.concatStringsSep ", " noScope} is no scope of a budget; give fleet, project:NAME or session:NAME.";
      }
      {
        assertion = noPeriod == [ ];
        message = "${option "budgets"}: ${lib.concatStringsSep ", " noPeriod} is no period of a budget; there are ${lib.concatStringsSep ", " periods}, as in ${option "budgets"}.fleet.day.limit = \"2M\".";
      }
      {
        assertion = cfg.mutable || cfg.projects != { } || cfg.budgets != { };
        message = "${option "mutable"} is false and nothing is declared, so that every project and every budget would be removed; declare what there is to be in ${option "projects"} and ${option "budgets"}, or leave it true.";
      }
      {
        assertion = cfg.mutable || orphans == [ ];
        message = "${option "budgets"}: ${lib.concatStringsSep ", " orphans} is of a project that ${option "mutable"} = false removes, as it is not declared; declare it in ${option "projects"}, too.";
      }
      {
        assertion =
          cfg.agent.settings.accept_placed_launches
          -> cfg.agent.settings.from_hosts != [ ] && cfg.agent.settings.as_users != [ ];
        message = "${option "agent.settings.accept_placed_launches"} accepts none while from_hosts or as_users beside it is empty; name the hosts and the users, or take it out.";
      }
      {
        assertion = lib.elem "root" cfg.agent.settings.allowed_users -> cfg.agent.settings.allow_root;
        message = "${option "agent.settings.allowed_users"} names root, which only ${option "agent.settings.allow_root"} lets run; set that, or take root out.";
      }
    ];

    warnings = lib.optional (away != [ ] && cfg.ipAddressAllow == [ ]) ''
      ${lib.concatMapStringsSep " and " option away}: the daemon's unit lets it talk to this host alone, and this is about others. Name their addresses in ${option "ipAddressAllow"}.
    '';
  };
}
