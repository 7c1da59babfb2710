# services.stratavore: the options are in options.nix, who may do what in access.nix, this host's own database and
# broker in local.nix, what is refused and said in checks.nix.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.stratavore;
  toml = pkgs.formats.toml { };

  # Looked at by the program that will read it, while the system is built. It is copied first: the agent refuses a file
  # of another user than root and itself, and in the sandbox of a build root is another.
  checked =
    name: check: settings:
    let
      file = toml.generate name settings;
    in
    if !pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform then
      file
    else
      pkgs.runCommand name { } ''
        cp --no-preserve=mode ${file} ${name}
        ${cfg.package}/${check} ${name}
        install -m 444 ${name} $out
      '';
  daemonFile = checked "stratavored.toml" "bin/stratavored --check-config" cfg.settings;
  agentFile = checked "agent.toml" "libexec/stratavore/stratavore-agent --check-config" cfg.agent.settings;

  # null = nothing is said.
  said = lib.filterAttrs (_: value: value != null);
  declares = cfg.projects != { } || cfg.budgets != { } || cfg.quotas.fleet != null;
  declaredFile = checked "declared.toml" "bin/stratavorectl apply --check --file" (
    {
      inherit (cfg) mutable;
      projects = builtins.mapAttrs (_: said) cfg.projects;
      budgets = builtins.mapAttrs (_: builtins.mapAttrs (_: said)) cfg.budgets;
    }
    // lib.optionalAttrs (cfg.quotas.fleet != null) { fleet.max_runners = cfg.quotas.fleet; }
  );
  catalog = "${cfg.package}/lib/systemd/catalog/stratavore.catalog";

  metrics = import ./metrics.nix { inherit lib; } cfg.settings.metrics.listen;
  rules = import ./access.nix { inherit lib; } cfg.access;
in
{
  imports = [
    ./options.nix
    ./local.nix
    ./checks.nix
  ];

  config = lib.mkIf cfg.enable {
    environment.etc = {
      "stratavore/stratavored.toml".source = daemonFile;
      "stratavore/agent.toml".source = agentFile;
      # journald knows /etc; it does not look into packages.
      "systemd/catalog/stratavore.catalog".source = catalog;
    }
    // lib.optionalAttrs declares { "stratavore/declared.toml".source = declaredFile; };

    # stratavorectl with its manual and completions, and what polkit reads: it looks into the system's path
    # (/run/current-system/sw/share/polkit-1), and NixOS restarts it when that changes.
    environment.systemPackages = [
      cfg.package
    ]
    ++ lib.optional (rules != null) (
      pkgs.writeTextDir "share/polkit-1/rules.d/40-stratavore-access.rules" rules
    );
    security.polkit.enable = true;
    services.dbus.packages = [ cfg.package ];
    systemd.tmpfiles.packages = [ cfg.package ];

    # As in the shipped sysusers.d, which NixOS does not read.
    users.users.stratavore = {
      isSystemUser = true;
      group = "stratavore";
      home = "/var/lib/stratavore";
      description = "Stratavore daemon";
    };
    users.groups = {
      stratavore = { };
      stratavore-users = { };
      stratavore-admins = { };
    };

    # The shipped units. What follows becomes a drop-in of each; NixOS ignores [Install], so it says who wants them.
    systemd.packages = [ cfg.package ];

    # A switch restarts daemon and agent in one step, with the new programs: they are down for a moment and not while
    # the system is activated. Runners and their shims are in scopes of their own, which a switch does not look at
    # (their units are systemd's, in /run, not of /etc/systemd/system); they go on with the programs they were
    # started from, which are no garbage as long as they run: /proc/PID/exe is a root of Nix's collector.
    systemd.services.stratavored = {
      wantedBy = [ "multi-user.target" ];
      restartTriggers = [ daemonFile ];
      # Runners do not notice, and a program with a mended fault has to come into force.
      restartIfChanged = true;
      stopIfChanged = false;
      serviceConfig =
        lib.optionalAttrs (cfg.credentials != { }) {
          # "%" begins a specifier.
          LoadCredential = lib.mapAttrsToList (
            name: path: "${name}:${lib.replaceStrings [ "%" ] [ "%%" ] path}"
          ) cfg.credentials;
        }
        // lib.optionalAttrs (cfg.ipAddressAllow != [ ]) { IPAddressAllow = cfg.ipAddressAllow; };
    };

    systemd.services.stratavore-agent = {
      # All of agent.toml is taken over by a reload.
      reloadTriggers = [ agentFile ];
      restartIfChanged = true;
      # With stop and start it would be stopped together with its socket, and the daemon would find nobody meanwhile.
      stopIfChanged = false;
    };
    systemd.sockets.stratavore-agent.wantedBy = [ "sockets.target" ];

    # Without a file it does nothing. A switch that changes what is declared restarts this and not the daemon, which does
    # not read it. What is no longer declared stays, unless `mutable` is false.
    systemd.services.stratavore-apply = {
      wantedBy = [ "multi-user.target" ];
      restartTriggers = lib.optional declares declaredFile;
      restartIfChanged = true;
      # There is nothing to stop; with a new daemon it is restarted in one step, and so comes after it.
      stopIfChanged = false;
    };

    # Where this module is taken away, daemon and agent are stopped, as nobody looks after their programs any more, and
    # runners go on. Stopping the slice would stop each of them.
    systemd.slices.stratavore.unitConfig.X-StopOnRemoval = false;

    systemd.services.stratavore-catalog = {
      description = "Journal Catalog of Stratavore";
      wantedBy = [ "multi-user.target" ];
      restartTriggers = [ catalog ];
      # systemd's own unit does this after an update of /usr, of which NixOS has none.
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "${config.systemd.package}/bin/journalctl --update-catalog";
      };
    };

    networking.firewall.allowedTCPPorts = lib.mkIf (cfg.openFirewall && metrics != null) [ metrics.port ];

    services.prometheus.scrapeConfigs = lib.mkIf (cfg.prometheus.scrape && metrics != null) [
      {
        job_name = "stratavore";
        # Lists this host, and in a fleet all that advertise an address.
        http_sd_configs = [ { url = "http://${metrics.address}:${toString metrics.port}/sd"; } ];
        relabel_configs = [
          {
            source_labels = [ "__meta_stratavore_host_name" ];
            target_label = "instance";
          }
        ];
      }
    ];
  };
}
