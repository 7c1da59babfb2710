{
  description = "A stand-in for nixpkgs, of as much as this project's flake uses, so that it can be evaluated without a network";

  outputs =
    { self }:
    let
      lib = import ./lib.nix // {
        nixosSystem = import ./nixos.nix lib;
      };
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (import ./pkgs.nix lib);
    };
}
