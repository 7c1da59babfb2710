# The functions of nixpkgs' lib that are used here, and modules: options with types that check, mkIf, mkMerge, priorities,
# submodules, freeform settings. Same names, same meaning; where one of nixpkgs can do more, this one refuses.
let
  inherit (builtins)
    all
    any
    attrNames
    concatLists
    concatMap
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    functionArgs
    hasAttr
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isPath
    isString
    length
    listToAttrs
    map
    mapAttrs
    match
    replaceStrings
    stringLength
    substring
    tail
    typeOf
    ;

  # Lists, sets and texts.
  optional = yes: value: if yes then [ value ] else [ ];
  optionals = yes: values: if yes then values else [ ];
  optionalAttrs = yes: set: if yes then set else { };
  optionalString = yes: text: if yes then text else "";
  genAttrs = names: make: listToAttrs (map (name: { inherit name; value = make name; }) names);
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  filterAttrs = keep: set: genAttrs (filter (name: keep name set.${name}) (attrNames set)) (name: set.${name});
  unique = foldl' (seen: value: seen ++ optional (!elem value seen) value) [ ];
  last = list: elemAt list (length list - 1);
  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  hasInfix = infix: text: length (builtins.split (escapeRegex infix) text) > 1;
  removePrefix =
    prefix: text:
    if hasPrefix prefix text then substring (stringLength prefix) (stringLength text) text else text;
  characters = text: map (at: substring at 1 text) (builtins.genList (at: at) (stringLength text));
  escapeRegex =
    let
      special = characters "\\[{()^$?*+|.";
    in
    replaceStrings special (map (character: "\\" + character) special);
  isDerivation = value: value.type or null == "derivation";

  # Modules.
  mark = _type: set: set // { inherit _type; };
  typeIs = name: value: isAttrs value && value._type or null == name;
  mkIf = condition: content: mark "if" { inherit condition content; };
  mkMerge = contents: mark "merge" { inherit contents; };
  mkOverride = priority: content: mark "override" { inherit priority content; };
  mkOption = mark "option";

  # The sets that a definition stands for; conditions go to their values, so that names are known without them.
  sets =
    value:
    if typeIs "merge" value then
      concatMap sets value.contents
    else if typeIs "if" value then
      map (mapAttrs (_: mkIf value.condition)) (sets value.content)
    else if typeIs "override" value then
      map (mapAttrs (_: mkOverride value.priority)) (sets value.content)
    else
      [ value ];
  # The values that a definition stands for, with their priorities.
  values =
    value:
    if typeIs "merge" value then
      concatMap values value.contents
    else if typeIs "if" value then
      optionals value.condition (values value.content)
    else if typeIs "override" value then
      map (one: one // { inherit (value) priority; }) (values value.content)
    else
      [ { priority = 100; inherit value; } ];
  shown = concatStringsSep ".";
  # One value of this type out of definitions, else the option's default.
  merge = mergeOr { };
  mergeOr =
    option: path: type: definitions:
    let
      given = concatMap values definitions;
      default = optional (option ? default) {
        priority = 1500;
        value = option.default;
      };
      found = if given == [ ] then default else given;
      best = foldl' (least: one: if one.priority < least then one.priority else least) 9999 found;
      chosen = map (one: one.value) (filter (one: one.priority == best) found);
      wrong = filter (value: !type.check value) chosen;
    in
    if found == [ ] then
      throw "The option `${shown path}' was accessed but has no value defined. Try setting the option."
    else if wrong != [ ] then
      throw "A definition for option `${shown path}' is not of type `${type.description}'. Definition values: ${builtins.toJSON (map typeOf wrong)}"
    else
      type.merge path chosen;

  # Options and definitions to a configuration. `freeform` is the type of what no option is declared for.
  tree =
    path: options: freeform: definitions:
    let
      given = concatMap sets definitions;
      of = name: map (set: set.${name}) (filter (hasAttr name) given);
      undeclared = filter (name: !hasAttr name options) (unique (concatMap attrNames given));
      declared = mapAttrs (
        name: option:
        if typeIs "option" option then
          (option.apply or (value: value)) (
            mergeOr option (path ++ [ name ]) option.type (of name)
          )
        else
          tree (path ++ [ name ]) option freeform (of name)
      ) options;
      # Not what mkIf takes away, whole branches of it included.
      kept = filterAttrs (_: found: found != [ ]) (
        genAttrs undeclared (name: concatMap values (of name))
      );
    in
    if freeform != null then
      declared // mapAttrs (name: _: merge (path ++ [ name ]) freeform (of name)) kept
    else if undeclared != [ ] then
      throw "The option `${shown (path ++ [ (head undeclared) ])}' does not exist."
    else
      declared;

  joinOptions =
    path: a: b:
    if typeIs "option" a || typeIs "option" b then
      throw "The option `${shown path}' is declared twice."
    else
      a // mapAttrs (name: value: if hasAttr name a then joinOptions (path ++ [ name ]) a.${name} value else value) b;

  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
    }:
    let
      collect =
        module:
        let
          loaded = if isPath module || isString module then import module else module;
          body =
            if isFunction loaded then
              loaded (mapAttrs (name: _: arguments.${name}) (functionArgs loaded))
            else
              loaded;
          plain = removeAttrs body [
            "imports"
            "freeformType"
          ];
          explicit = body ? options || body ? config;
        in
        concatMap collect (body.imports or [ ])
        ++ [
          {
            options = if explicit then body.options or { } else { };
            config = if explicit then body.config or { } else plain;
            freeformType = body.freeformType or null;
          }
        ];
      arguments = specialArgs // {
        inherit lib config options;
      };
      all' = concatMap collect modules;
      options = foldl' (joinOptions prefix) { } (map (one: one.options) all');
      freeform = foldl' (last: one: if one.freeformType != null then one.freeformType else last) null all';
      config = tree prefix options freeform (map (one: one.config) all');
    in
    {
      inherit config options;
    };

  # Types.
  type =
    description: check: merge':
    { inherit description check; merge = merge'; };
  same =
    path: found:
    if all (value: value == head found) found then
      head found
    else
      throw "The option `${shown path}' has conflicting definition values.";
  simple = description: check: type description check same;
  part = of: if hasInfix " or " of.description || hasInfix "," of.description then "(${of.description})" else of.description;
  asPath = value: isPath value || isDerivation value || (isString value && hasPrefix "/" value);
  types = rec {
    anything = simple "anything" (_: true);
    bool = simple "boolean" isBool;
    int = simple "signed integer" isInt;
    ints.unsigned = simple "unsigned integer, meaning >=0" (value: isInt value && value >= 0);
    port = simple "16 bit unsigned integer; between 0 and 65535 (both inclusive)" (
      value: isInt value && value >= 0 && value <= 65535
    );
    str = simple "string" isString;
    lines = type "strings concatenated with \"\\n\"" isString (_: concatStringsSep "\n");
    strMatching =
      pattern:
      simple "string matching the pattern ${pattern}" (value: isString value && match pattern value != null);
    enum =
      words: simple "one of ${concatStringsSep ", " (map (word: ''"${word}"'') words)}" (value: elem value words);
    package = simple "package" isDerivation;
    path = simple "absolute path" asPath;
    externalPath = simple "absolute path not in the Nix store" (
      value: isString value && hasPrefix "/" value && !hasPrefix builtins.storeDir value
    );
    either =
      a: b:
      type "${part a} or ${part b}" (value: a.check value || b.check value) (
        path: found: if all a.check found then a.merge path found else b.merge path found
      );
    nullOr =
      of:
      type "null or ${part of}" (value: value == null || of.check value) (
        path: found: if all (value: value == null) found then null else of.merge path found
      );
    listOf =
      of:
      type "list of ${part of}" isList (
        path: found: map (value: merge path of [ value ]) (concatLists found)
      );
    attrsOf =
      of:
      type "attribute set of ${part of}" isAttrs (path: found: tree path { } of found)
      // lib.optionalAttrs (of ? getSubOptions) {
        getSubOptions = prefix: { "<name>" = of.getSubOptions (prefix ++ [ "<name>" ]); };
      };
    submodule =
      module:
      type "submodule" (value: isAttrs value || isFunction value) (
        path: found:
        (evalModules {
          modules = [ module ] ++ map (one: if isFunction one then one else { config = one; }) found;
          specialArgs.name = last path;
          prefix = path;
        }).config
      )
      // {
        getSubOptions =
          prefix:
          (evalModules {
            modules = [ module ];
            specialArgs.name = "<name>";
            inherit prefix;
          }).options;
      };
  };

  lib = {
    inherit
      all
      any
      attrNames
      concatLists
      concatMap
      concatStringsSep
      elem
      escapeRegex
      evalModules
      filter
      filterAttrs
      genAttrs
      hasInfix
      hasPrefix
      isDerivation
      last
      mapAttrsToList
      mkIf
      mkMerge
      mkOption
      mkOverride
      optional
      optionalAttrs
      optionalString
      optionals
      removePrefix
      replaceStrings
      typeIs
      types
      unique
      ;
    concatMapStringsSep = separator: f: list: concatStringsSep separator (map f list);
    concatStrings = concatStringsSep "";
    escapeShellArg = text: "'${replaceStrings [ "'" ] [ "'\\''" ] text}'";
    getExe' = package: name: "${package}/bin/${name}";
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
    mkEnableOption =
      what:
      mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Whether to enable ${what}.";
      };
    mkPackageOption =
      pkgs: name: _:
      mkOption {
        type = types.package;
        default = pkgs.${name} or (throw "There is no package ${name}.");
        defaultText = "pkgs.${name}";
        description = "The ${name} package to use.";
      };
    subtractLists = without: filter (value: !elem value without);
    toInt = text: builtins.fromJSON text;
    trim = text: head (match "[ \t\r\n]*(.*[^ \t\r\n])[ \t\r\n]*" text);
    versionAtLeast = version: least: builtins.compareVersions version least >= 0;
    licenses = {
      asl20 = "Apache-2.0";
      mit = "MIT";
    };
    platforms.linux = [
      "x86_64-linux"
      "aarch64-linux"
    ];
    fileset = {
      unions = concatMap (path: if isList path then path else [ path ]);
      difference = path: without: assert builtins.pathExists without; [ path ];
      # The whole root; all that is named has to be there.
      toSource =
        { root, fileset }:
        assert all builtins.pathExists fileset;
        root;
    };
  };
in
lib
