# Where this host reaches what `metrics.listen` says: an address as it stands in a URL, and a port; null = nowhere.
{ lib }:
listen:
let
  parts = builtins.match "(.*):([0-9]+)" listen;
  address = builtins.head parts;
  # What listens everywhere is reached at home.
  home = {
    "0.0.0.0" = "127.0.0.1";
    "[::]" = "[::1]";
  };
in
if parts == null then
  null
else
  {
    address = home.${address} or address;
    port = lib.toInt (lib.last parts);
    # Whether others can reach it at all.
    open = !(lib.hasPrefix "127." address || address == "[::1]");
  }
