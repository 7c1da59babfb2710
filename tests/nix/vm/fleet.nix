# Three hosts with one PostgreSQL and one RabbitMQ of another machine.
module:
let
  host = {
    imports = [ module ];
    services.stratavore = {
      enable = true;
      settings = {
        store.url = "postgres://stratavore@db/stratavore?sslmode=disable";
        events.amqp_urls = [ "amqp://stratavore@db" ];
        events.unroutable = "accept";
        fleet.lease_renew = "1s";
        fleet.lease_ttl = "5s";
      };
      credentials = {
        store-password = "/etc/secrets/store";
        amqp-password = "/etc/secrets/amqp";
      };
      # The test's own network.
      ipAddressAllow = [
        "192.168.1.0/24"
        "2001:db8:1::/64"
      ];
    };
    environment.etc."secrets/store".text = "of-the-store";
    environment.etc."secrets/amqp".text = "of-the-broker";
    users.users.alice = {
      isNormalUser = true;
      uid = 2001;
      extraGroups = [ "stratavore-users" ];
    };
  };
in
{
  name = "stratavore-fleet";

  nodes = {
    db = {
      services.postgresql = {
        enable = true;
        enableTCPIP = true;
        ensureDatabases = [ "stratavore" ];
        ensureUsers = [
          {
            name = "stratavore";
            ensureDBOwnership = true;
          }
        ];
        authentication = "host stratavore stratavore samenet scram-sha-256";
      };
      services.rabbitmq = {
        enable = true;
        listenAddress = "";
      };
      networking.firewall.allowedTCPPorts = [
        5432
        5672
      ];
    };
    web1 = host;
    web2 = host;
    web3 = host;
  };

  testScript = ''
    hosts = [web1, web2, web3]
    manager = "busctl get-property org.stratavore1 /org/stratavore1 org.stratavore1.Manager"

    def of(host, user, command, code=0):
        status, out = host.execute(f"runuser -u {user} -- stratavorectl --no-ask-password {command}")
        assert status == code, f"{host.name}: {user}: {command}: status {status}: {out}"
        return out.strip()

    db.start()
    db.wait_for_unit("postgresql.target")
    db.wait_for_unit("rabbitmq.service")
    db.succeed("runuser -u postgres -- psql -c \"ALTER ROLE stratavore PASSWORD 'of-the-store'\"")
    db.succeed("runuser -u rabbitmq -- rabbitmqctl add_user stratavore of-the-broker")
    db.succeed("runuser -u rabbitmq -- rabbitmqctl set_permissions stratavore '^stratavore' '^stratavore' '^$'")
    for host in hosts:
        host.start()
    for host in hosts:
        host.wait_for_unit("stratavored.service")
        for what in "Store", "Broker":
            host.wait_until_succeeds(f"{manager} {what} | grep -qx 's \"ok\"'")

    with subtest("a cap is one for all hosts"):
        of(web1, "root", "project create web --max-runners 2")
        first = of(web1, "alice", "run web -- sleep 100000")
        of(web2, "alice", "run web -- sleep 100000")
        of(web3, "alice", "run web -- sleep 100000", code=3)
        assert len(of(web3, "alice", "list -q").splitlines()) == 2

    with subtest("orders reach the other hosts"):
        of(web3, "alice", f"stop {first}")
        web1.wait_until_fails("pgrep -u alice -x sleep")
        of(web3, "alice", "run web -- sleep 100000")

    with subtest("events reach the broker"):
        db.succeed("runuser -u rabbitmq -- rabbitmqctl --quiet list_exchanges | grep -q '^stratavore.events'")
        for host in hosts:
            host.wait_until_succeeds("curl -sf http://127.0.0.1:9791/metrics | grep -qx 'stratavore_outbox_pending 0'")
        web1.succeed("curl -sf http://127.0.0.1:9791/metrics | grep -q '^stratavore_outbox_published_total [1-9]'")

    with subtest("runners go on without the store"):
        db.succeed("systemctl stop postgresql")
        of(web2, "alice", "run web -- true", code=1)
        web2.succeed("systemctl restart stratavored --no-block")
        web2.succeed("pgrep -u alice -x sleep")
        db.succeed("systemctl start postgresql")
        web2.wait_until_succeeds(f"{manager} Store | grep -qx 's \"ok\"'")
        assert len(of(web2, "alice", "list -q").splitlines()) == 2

    with subtest("a host that dies keeps its slots until somebody says that it is off"):
        web3.crash()
        web1.wait_until_succeeds("stratavorectl host list | grep web3 | grep -q unreachable")
        of(web1, "alice", "run web -- true", code=3)
        of(web1, "root", "host forget web3")
        of(web1, "alice", "run --wait web -- true")
  '';
}
