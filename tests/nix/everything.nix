# A host that uses every option of the module.
{ ... }:
{
  services.stratavore = {
    enable = true;
    settings = {
      host.max_runners = 50;
      host.labels = {
        zone = "b";
        "example.org/gpu" = "a100";
      };
      limits.memory_max = "8G";
      limits.unenforced = "warn";
      store.max_connections = 8;
      fleet.lease_renew = "5s";
      metrics.listen = "0.0.0.0:9791";
      metrics.advertise = "192.0.2.1";
      notify.rules.ops = {
        format = "ntfy";
        types = [
          "runner.ended"
          "budget.*"
        ];
      };
    };
    agent.settings = {
      allowed_users = [
        "alice"
        2001
      ];
      accept_placed_launches = true;
      from_hosts = [ "web-1" ];
      as_users = [ "alice" ];
      ceilings.memory_max = "16G";
      ceilings.tasks_max = 5000;
    };
    credentials = {
      audit-key = "/run/secrets/audit %i";
      notify-ops-url = "/run/secrets/ops-url";
    };
    store.createLocally = true;
    events.createLocally = true;
    access = {
      admins = [ "@wheel" ];
      operators = [ "olga" ];
      viewers = [ ''DOMAIN\vera "the viewer"'' ];
      projects.web = {
        admins = [ "adam" ];
        operators = [ "@web-team" ];
        viewers = [ "vic" ];
      };
    };
    ipAddressAllow = [ "192.0.2.0/24" ];
    openFirewall = true;
    prometheus.scrape = true;
  };
  services.prometheus.enable = true;
}
