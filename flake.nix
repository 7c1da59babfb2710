{
  description = "Stratavore: long commands as systemd scopes, with limits that hold and endings that are true";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      forEach =
        outputs:
        lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
          system: outputs system nixpkgs.legacyPackages.${system}
        );
      # As build.rs tells it: twelve digits, and whether there were changes. A checkout with changes has no revision
      # before Nix 2.17.
      revision = self.rev or self.dirtyRev or null;
      told = {
        commit =
          if revision == null then
            null
          else
            builtins.substring 0 12 revision + lib.optionalString (!self ? rev) "-dirty";
        date = self.lastModified or null;
      };
      package = pkgs: pkgs.callPackage ./nixos-module/package.nix told;
      module =
        { lib, pkgs, ... }:
        {
          imports = [ ./nixos-module ];
          services.stratavore.package = lib.mkDefault (package pkgs);
        };
    in
    {
      packages = forEach (
        _: pkgs: rec {
          default = stratavore;
          stratavore = package pkgs;
        }
      );

      overlays.default = final: _: { stratavore = package final; };

      nixosModules.default = module;

      checks = forEach (
        system: pkgs: {
          package = self.packages.${system}.stratavore;
          # `nix flake check` does not look into a module: here its units are made.
          module = import ./tests/nix/module.nix { inherit lib pkgs module; };
          vm-host = pkgs.testers.runNixOSTest (import ./tests/nix/vm/host.nix module);
          vm-fleet = pkgs.testers.runNixOSTest (import ./tests/nix/vm/fleet.nix module);
          vm-switch = pkgs.testers.runNixOSTest (import ./tests/nix/vm/switch.nix module);
        }
      );

      devShells = forEach (
        system: pkgs: {
          default = pkgs.mkShell {
            inputsFrom = [ self.packages.${system}.stratavore ];
            packages = [
              pkgs.clippy
              pkgs.postgresql
              pkgs.rabbitmq-server
              pkgs.rustfmt
              pkgs.sqlite
            ];
          };
        }
      );

      formatter = forEach (_: pkgs: pkgs.nixfmt-tree);

      apps = forEach (
        system: _: {
          default = {
            type = "app";
            program = lib.getExe' self.packages.${system}.stratavore "stratavorectl";
          };
        }
      );
    };
}
