# As many packages as are used here. They are derivations that could be built, and never are.
lib: system:
let
  stub =
    name: more:
    derivation (
      {
        inherit name system;
        builder = "/bin/sh";
        args = [
          "-c"
          "false"
        ];
      }
      // more
    );
  program = name: version: stub "${name}-${version}" { } // { inherit version; };
  # A file that names nothing to be built is really there.
  writeText =
    name: text:
    if builtins.hasContext text then
      stub name { inherit text; } // { inherit text; }
    else
      {
        type = "derivation";
        inherit name text;
        outPath = builtins.toFile name text;
      };

  # TOML: what nixpkgs' own writer makes of a set, in another layout.
  value =
    let
      isValue =
        found:
        builtins.isBool found
        || builtins.isInt found
        || builtins.isFloat found
        || builtins.isString found
        || (builtins.isList found && lib.all isValue found)
        || (builtins.isAttrs found && lib.all isValue (builtins.attrValues found));
      # Conditions are looked at when they are merged.
      isLazy = found: lib.any (name: lib.typeIs name found) [ "if" "merge" "override" ];
    in
    {
      description = "TOML value";
      check =
        found: if builtins.isAttrs found then lib.all (one: isLazy one || value.check one) (builtins.attrValues found) else isValue found;
      merge =
        path: found:
        if builtins.isAttrs (builtins.head found) then
          (lib.types.attrsOf value).merge path found
        else
          lib.types.anything.merge path found;
    };
  inline =
    found:
    if builtins.isAttrs found then
      "{ ${lib.concatStringsSep ", " (lib.mapAttrsToList (name: one: "${builtins.toJSON name} = ${inline one}") found)} }"
    else if builtins.isList found then
      "[ ${lib.concatMapStringsSep ", " inline found} ]"
    else
      builtins.toJSON found;
  isTable = _: found: builtins.isAttrs found;
  written =
    set:
    lib.concatStrings (
      lib.mapAttrsToList (name: one: "${builtins.toJSON name} = ${inline one}\n") (
        lib.filterAttrs (name: one: !isTable name one) set
      )
      ++ lib.mapAttrsToList (
        name: one:
        "\n[${builtins.toJSON name}]\n"
        + lib.concatStrings (lib.mapAttrsToList (key: of: "${builtins.toJSON key} = ${inline of}\n") one)
      ) (lib.filterAttrs isTable set)
    );

  pkgs = {
    inherit lib system writeText;
    stdenv = {
      buildPlatform.canExecute = _: true;
      hostPlatform = {
        inherit system;
        rust.cargoShortTarget =
          {
            x86_64-linux = "x86_64-unknown-linux-gnu";
            aarch64-linux = "aarch64-unknown-linux-gnu";
          }
          .${system};
      };
    };
    runtimeShell = "${pkgs.bash}/bin/bash";
    runCommand = name: more: script: stub name (more // { inherit script; }) // { inherit script; };
    writeTextDir = path: text: stub (baseNameOf path) { inherit text path; } // { inherit text path; };
    formats.toml = _: {
      type = value;
      generate = name: set: writeText name (written set);
    };
    callPackage =
      file: given:
      let
        make = import file;
        wanted = builtins.functionArgs make;
        known = builtins.intersectAttrs wanted pkgs;
      in
      make (known // given);
    rustPlatform.buildRustPackage =
      {
        pname,
        version,
        src,
        cargoLock,
        meta,
        env,
        installPhase,
        ...
      }@given:
      assert builtins.pathExists src && (builtins.fromTOML (builtins.readFile cargoLock.lockFile)).version == 4;
      stub "${pname}-${version}" (
        removeAttrs given [
          "meta"
          "cargoLock"
          "env"
          "src"
        ]
        // env
      )
      // {
        inherit meta version env installPhase;
      };
    mkShell = given: stub "shell" { inputs = given.packages ++ given.inputsFrom; };
    # Each machine of the test is evaluated whole.
    testers.runNixOSTest =
      test:
      let
        machine =
          _: module:
          (lib.nixosSystem {
            inherit system;
            modules = [ module ];
          }).config.system.build.toplevel;
      in
      stub "vm-test-run-${test.name}" {
        nodes = lib.mapAttrsToList machine test.nodes;
        script =
          if builtins.isFunction test.testScript then
            test.testScript { nodes = builtins.mapAttrs (_: _: { }) test.nodes; }
          else
            test.testScript;
      };
  }
  // lib.genAttrs [ "bash" "clippy" "coreutils" "nixfmt-tree" "rustfmt" "sqlite" "systemd" ] (
    name: program name "1"
  )
  // {
    postgresql = program "postgresql" "17.1";
    postgresql_13 = program "postgresql" "13.1";
    rabbitmq-server = program "rabbitmq-server" "4.1.0";
  };
in
pkgs
