# Evaluates a host with everything switched on, down to the text of its units. A wrong option, a failed assertion and what
# NixOS does not know fail here.
{
  lib,
  pkgs,
  module,
}:
let
  host = lib.nixosSystem {
    inherit (pkgs.stdenv.hostPlatform) system;
    modules = [
      module
      ./everything.nix
    ];
  };
  text = name: host.config.systemd.units.${name}.text;
  failed = map (one: one.message) (lib.filter (one: !one.assertion) host.config.assertions);
in
if failed != [ ] then
  throw (lib.concatStringsSep "\n" failed)
else
  pkgs.writeText "stratavore-units" (
    lib.concatMapStringsSep "\n" text [
      "stratavored.service"
      "stratavore-agent.service"
      "stratavore-agent.socket"
      "stratavore-apply.service"
      "stratavore.slice"
      "stratavore-catalog.service"
      "stratavore-amqp-password.service"
      "stratavore-amqp-user.service"
    ]
    + lib.concatMapStringsSep "\n" (name: "${host.config.environment.etc.${name}.source}") [
      "stratavore/stratavored.toml"
      "stratavore/agent.toml"
      "stratavore/declared.toml"
      "systemd/catalog/stratavore.catalog"
    ]
  )
