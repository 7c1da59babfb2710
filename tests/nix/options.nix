# nixos-module/options.md, made of the options themselves. `options`: those of services.stratavore.
{ lib, options }:
let
  # A value as it is written in Nix.
  nix =
    indent: value:
    let
      deeper = indent + "  ";
      lines = open: close: list: if list == [ ] then "${open} ${close}" else "${open}\n${lib.concatMapStringsSep "\n" (line: deeper + line) list}\n${indent}${close}";
      key = name: if builtins.match "[a-zA-Z_][a-zA-Z0-9_-]*" name == null then builtins.toJSON name else name;
    in
    if builtins.isAttrs value then
      lines "{" "}" (lib.mapAttrsToList (name: of: "${key name} = ${nix deeper of};") value)
    else if builtins.isList value then
      lines "[" "]" (map (nix deeper) value)
    else
      builtins.toJSON value;
  shown =
    value:
    let
      text = nix "" value;
    in
    if lib.hasInfix "\n" text then "\n\n```nix\n${text}\n```" else " `${text}`";

  # Roles are of nixpkgs' own manual.
  plain = builtins.replaceStrings [ "{file}`" "{command}`" "{option}`" ] [ "`" "`" "`" ];
  one =
    path: option:
    let
      isSet = option.type ? getSubOptions;
      of = option.type.getSubOptions path;
    in
    [
      (
        "## `${lib.concatStringsSep "." path}`\n\n${plain (lib.trim option.description)}\n"
        + lib.optionalString (!isSet) "\nType: `${option.type.description}`\n"
        + lib.optionalString (option ? default && !isSet) "\nDefault:${
          if option ? defaultText then " `${option.defaultText}`" else shown option.default
        }\n"
        + lib.optionalString (option ? example) "\nExample:${shown option.example}\n"
      )
    ]
    ++ lib.optionals isSet (all path of);
  all =
    path: options:
    lib.concatLists (
      lib.mapAttrsToList (
        name: option:
        if lib.typeIs "option" option then
          one (path ++ [ name ]) option
        else
          all (path ++ [ name ]) option
      ) options
    );
in
''
  # Options of the NixOS module

  Made of nixos-module/options.nix by `tests/nix/run.sh --update`.

''
+ lib.concatStringsSep "\n" (all [ "services" "stratavore" ] options)
