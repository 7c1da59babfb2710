# PostgreSQL and RabbitMQ of this host itself.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.stratavore;
  rabbitmq = config.services.rabbitmq;
  password = "/var/lib/stratavore-amqp/password";
in
{
  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      (lib.mkIf cfg.store.createLocally {
        # By the socket, where PostgreSQL believes the kernel who is there.
        services.stratavore.settings.store.url = lib.mkDefault "postgres://stratavore@%2Frun%2Fpostgresql/stratavore";
        services.postgresql = {
          enable = true;
          ensureDatabases = [ "stratavore" ];
          ensureUsers = [
            {
              name = "stratavore";
              ensureDBOwnership = true;
            }
          ];
        };
        # The target is up when role and database are there. Wanted and not required: the daemon outlives restarts of
        # the database, and stops before it when the host goes down, so that the last endings are written.
        systemd.services.stratavored = {
          wants = [ "postgresql.target" ];
          after = [ "postgresql.target" ];
        };
      })

      (lib.mkIf cfg.events.createLocally {
        services.stratavore.settings.events.amqp_urls = lib.mkDefault [
          "amqp://stratavore@127.0.0.1:${toString rabbitmq.port}"
        ];
        services.stratavore.credentials.amqp-password = lib.mkDefault password;
        services.rabbitmq.enable = true;

        # The password is there before the broker is: the daemon can't start without it, but can without the broker,
        # for which events wait. After the broker it starts so that it stops before it, with its last events told.
        systemd.services.stratavored = {
          wants = [
            "rabbitmq.service"
            "stratavore-amqp-password.service"
          ];
          after = [
            "rabbitmq.service"
            "stratavore-amqp-password.service"
          ];
        };

        systemd.services.stratavore-amqp-password = lib.mkIf (cfg.credentials.amqp-password == password) {
          description = "Password of Stratavore at RabbitMQ";
          serviceConfig = {
            Type = "oneshot";
            RemainAfterExit = true;
            StateDirectory = "stratavore-amqp";
            StateDirectoryMode = "0700";
            UMask = "0077";
            CapabilityBoundingSet = "";
            NoNewPrivileges = true;
            PrivateNetwork = true;
            ProtectSystem = "strict";
          };
          script = ''
            [ ! -s ${password} ] || exit 0
            head -c 32 /dev/urandom | base64 -w 0 >${password}.new
            sync ${password}.new
            mv ${password}.new ${password}
          '';
        };

        systemd.services.stratavore-amqp-user = {
          description = "User of Stratavore at RabbitMQ";
          wantedBy = [
            "multi-user.target"
            "rabbitmq.service"
          ];
          wants = [ "stratavore-amqp-password.service" ];
          after = [
            "rabbitmq.service"
            "stratavore-amqp-password.service"
          ];
          # A broker that starts anew may have lost what it knew.
          partOf = [ "rabbitmq.service" ];
          path = [ rabbitmq.package ];
          # Where the cookie is by which the broker knows its own.
          environment.HOME = rabbitmq.dataDir;
          serviceConfig = {
            Type = "oneshot";
            RemainAfterExit = true;
            User = "rabbitmq";
            Group = "rabbitmq";
            LoadCredential = "password:${lib.replaceStrings [ "%" ] [ "%%" ] cfg.credentials.amqp-password}";
            CapabilityBoundingSet = "";
            NoNewPrivileges = true;
            Restart = "on-failure";
            RestartSec = "10s";
          };
          script = ''
            exec ${pkgs.runtimeShell} ${./amqp-user.sh} ${lib.escapeShellArg cfg.settings.events.exchange}
          '';
        };
      })
    ]
  );
}
