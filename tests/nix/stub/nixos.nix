# As much of NixOS as Stratavore's module and its tests set, with units rendered as NixOS renders them: what it adds to a
# unit of systemd.packages is the drop-in overrides.conf. What is not declared here can't be set.
lib:
{
  system ? "x86_64-linux",
  pkgs ? import ./pkgs.nix lib system,
  modules,
}:
let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  set = option (types.attrsOf types.anything) { };
  texts = option (types.listOf types.str) [ ];
  flag = option types.bool;
  paths = option (types.listOf types.path) [ ];

  line = name: value: "${name}=${if value == true then "true" else if value == false then "false" else toString value}\n";
  section =
    values:
    lib.concatStrings (
      lib.concatLists (
        lib.mapAttrsToList (
          name: value: map (line name) (if builtins.isList value then value else [ value ])
        ) values
      )
    );
  # Lists in a section may be given in parts.
  directives = option (types.attrsOf (
    types.either (types.listOf types.str) (types.either types.str (types.either types.bool types.int))
  )) { };

  unit = {
    description = option types.str "";
    wantedBy = texts;
    wants = texts;
    requires = texts;
    after = texts;
    before = texts;
    partOf = texts;
    unitConfig = directives;
    enable = flag true;
  };
  head =
    of:
    "[Unit]\n"
    + section (
      of.unitConfig
      // lib.filterAttrs (_: value: value != "") {
        Description = of.description;
        Wants = toString of.wants;
        Requires = toString of.requires;
        After = toString of.after;
        Before = toString of.before;
        PartOf = toString of.partOf;
      }
    );
  foot = of: lib.optionalString (of.wantedBy != [ ]) "\n[Install]\nWantedBy=${toString of.wantedBy}\n";
  triggers =
    name: values: lib.optionalString (values != [ ]) "X-${name}-Triggers=${pkgs.writeText name (toString values)}\n";

  service = types.submodule {
    options = unit // {
      path = option (types.listOf types.package) [ ];
      environment = option (types.attrsOf types.str) { };
      script = option types.lines "";
      restartTriggers = paths;
      reloadTriggers = paths;
      restartIfChanged = flag true;
      stopIfChanged = flag true;
      serviceConfig = directives;
    };
  };
  serviceText =
    of:
    let
      search = lib.concatMapStringsSep ":" (package: "${package}/bin") (
        of.path
        ++ [
          pkgs.coreutils
          pkgs.systemd
        ]
      );
      start = lib.optionalAttrs (of.script != "") {
        ExecStart = "${pkgs.writeText "script" of.script}";
      };
    in
    head of
    + triggers "Restart" of.restartTriggers
    + triggers "Reload" of.reloadTriggers
    + "\n[Service]\n"
    + section { Environment = lib.mapAttrsToList (name: value: builtins.toJSON "${name}=${value}") ({ PATH = search; } // of.environment); }
    + lib.optionalString (!of.restartIfChanged) "X-RestartIfChanged=false\n"
    + lib.optionalString (!of.stopIfChanged) "X-StopIfChanged=false\n"
    + section (start // of.serviceConfig)
    + foot of;
  other = name: key: types.submodule { options = unit // { ${key} = directives; }; };
  otherText =
    name: key: of:
    head of + "\n[${name}]\n" + section of.${key} + foot of;

  declarations =
    { config, ... }:
    {
      options = {
        assertions = option (types.listOf types.anything) [ ];
        warnings = texts;
        environment.etc = option (types.attrsOf (
          types.submodule (
            { config, ... }:
            {
              options.text = option (types.nullOr types.str) null;
              options.source = option types.path (pkgs.writeText "etc" config.text);
            }
          )
        )) { };
        environment.systemPackages = option (types.listOf types.package) [ ];
        networking.firewall.allowedTCPPorts = option (types.listOf types.port) [ ];
        networking.hostName = option types.str "nixos";
        networking.firewall.enable = flag true;
        security.polkit.enable = flag false;
        services.dbus.packages = option (types.listOf types.package) [ ];
        services.postgresql = {
          enable = flag false;
          package = option types.package pkgs.postgresql;
          enableTCPIP = flag false;
          ensureDatabases = texts;
          ensureUsers = option (types.listOf types.anything) [ ];
          authentication = option types.lines "";
        };
        services.prometheus = {
          enable = flag false;
          scrapeConfigs = option (types.listOf types.anything) [ ];
        };
        services.rabbitmq = {
          enable = flag false;
          package = option types.package pkgs.rabbitmq-server;
          port = option types.port 5672;
          listenAddress = option types.str "127.0.0.1";
          dataDir = option types.path "/var/lib/rabbitmq";
        };
        specialisation = option (types.attrsOf (types.submodule { options.configuration = mkOption { type = types.anything; }; })) { };
        systemd = {
          package = option types.package pkgs.systemd;
          packages = option (types.listOf types.package) [ ];
          tmpfiles.packages = option (types.listOf types.package) [ ];
          services = option (types.attrsOf service) { };
          sockets = option (types.attrsOf (other "Socket" "socketConfig")) { };
          slices = option (types.attrsOf (other "Slice" "sliceConfig")) { };
          units = option (types.attrsOf types.anything) { };
        };
        system.build = set;
        system.switch.enable = flag true;
        users.users = set;
        users.groups = set;
        virtualisation = set;
      };
      config = {
        systemd.units = lib.mkMerge (
          lib.mapAttrsToList (name: of: { "${name}.service".text = serviceText of; }) config.systemd.services
          ++ lib.mapAttrsToList (name: of: {
            "${name}.socket".text = otherText "Socket" "socketConfig" of;
          }) config.systemd.sockets
          ++ lib.mapAttrsToList (name: of: {
            "${name}.slice".text = otherText "Slice" "sliceConfig" of;
          }) config.systemd.slices
        );
        system.build.toplevel =
          let
            failed = map (one: one.message) (lib.filter (one: !one.assertion) config.assertions);
            # A specialisation is the same system with more to it.
            more = lib.mapAttrsToList (
              _: one:
              (import ./nixos.nix lib {
                inherit system pkgs;
                modules = map (module: {
                  imports = [ module ];
                  specialisation = lib.mkForce { };
                }) modules ++ [ one.configuration ];
              }).config.system.build.toplevel
            ) config.specialisation;
          in
          if failed != [ ] then
            throw "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (message: "- ${message}") failed}"
          else
            pkgs.writeText "nixos-system" (
              builtins.toJSON [
                (lib.mapAttrsToList (name: of: [ name of.text ]) config.systemd.units)
                (lib.mapAttrsToList (name: of: [ name of.source ]) config.environment.etc)
                config.environment.systemPackages
                config.networking.firewall.allowedTCPPorts
                config.services.prometheus.scrapeConfigs
                config.users
                more
              ]
            );
      };
    };
in
lib.evalModules {
  modules = [ declarations ] ++ modules;
  specialArgs = { inherit pkgs; };
}
