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
    projects = {
      web = {
        description = "The web team";
        max_runners = 40;
        max_queued = 100;
        default_tokens = "50k";
        memory_max = "64G";
        memory_high = 34359738368;
        memory_swap_max = 0;
        cpu_quota = "400%";
        cpu_weight = 200;
        io_weight = 50;
        tasks_max = "infinity";
      };
      "batch-1.x" = { };
    };
    quotas.fleet = 500;
    budgets = {
      "project:web".day = {
        limit = "20M";
        timezone = "Europe/Berlin";
        on_exhausted = "freeze";
        count = [
          "input"
          "output"
        ];
      };
      fleet.month.limit = 700000000;
      "session:nightly".none.limit = "1M";
    };
    mutable = false;
    ipAddressAllow = [ "192.0.2.0/24" ];
    openFirewall = true;
    prometheus.scrape = true;
  };
  services.prometheus.enable = true;
}
